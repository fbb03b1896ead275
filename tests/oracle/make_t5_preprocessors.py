"""Makes t5_preprocessors.json: examples, and what t5.data.preprocessors makes of them.

Run it with t5 0.9.4 beside this project's environment: .venv/bin/pip install --no-deps \
--target=/tmp/t5 t5==0.9.4 babel && PYTHONPATH=/tmp/t5 .venv/bin/python \
tests/oracle/make_t5_preprocessors.py
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import pathlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

FOLDER = pathlib.Path(__file__).parent
Example = Mapping[str, Any]


def map_over_dataset(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    """The decorator of seqio, for functions without random seeds."""

    @functools.wraps(function)
    def map_dataset(dataset: tf.data.Dataset, *args: Any, **kwargs: Any) -> tf.data.Dataset:
        return dataset.map(lambda example: function(example, *args, **kwargs))

    return map_dataset


def import_preprocessors() -> Any:
    """Imports the module of t5 alone: seqio and the packages above it need much else."""
    spec = importlib.util.find_spec("t5")
    assert spec is not None and spec.submodule_search_locations is not None
    root = pathlib.Path(spec.submodule_search_locations[0])
    for package in ("t5", "t5.data"):
        module = types.ModuleType(package)
        module.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
        sys.modules[package] = module
    seqio = types.ModuleType("seqio")
    vars(seqio)["map_over_dataset"] = map_over_dataset
    vars(seqio)["Feature"] = object  # in annotations
    vars(seqio)["preprocessors"] = types.SimpleNamespace(rekey=None, tokenize=None)
    sys.modules["seqio"] = seqio
    return importlib.import_module("t5.data.preprocessors")


# The orders of TFDS's classes.
LABELS = {
    "cola": ["unacceptable", "acceptable"],
    "sst2": ["negative", "positive"],
    "mrpc": ["not_equivalent", "equivalent"],
    "qqp": ["not_duplicate", "duplicate"],
    "mnli": ["entailment", "neutral", "contradiction"],
    "qnli": ["entailment", "not_entailment"],
    "rte": ["entailment", "not_entailment"],
    "boolq": ["False", "True"],
    "cb": ["entailment", "contradiction", "neutral"],
    "copa": ["choice1", "choice2"],
    "multirc": ["False", "True"],
    "wic": ["False", "True"],
}
TEXTS = {
    "cola": [{"sentence": "They drank the pub  dry. "}, {"sentence": ""}],
    "sst2": [{"sentence": "naïve — “brilliant” 映画 \U0001f600"}],
    "mrpc": [{"sentence1": "He said: yes.", "sentence2": 'Yes, "he" said.\tTab'}],
    "qqp": [{"question1": "What is 2 + 2?", "question2": "¿Cuánto es 2 + 2?"}],
    "mnli": [{"premise": "A man\nsleeps.", "hypothesis": "idx: label: no"}],
    "qnli": [{"question": "When?", "sentence": "In 1066 AD."}],
    "rte": [{"sentence1": "One.", "sentence2": "Two."}],
    "boolq": [{"question": "is it", "passage": "It -- is (here)."}],
    "cb": [{"premise": "B: And yes. A: Uh", "hypothesis": "it is so"}],
    "copa": [
        {
            **{"premise": "It rained.", "choice1": "Wet.", "choice2": "Dry."},
            "question": "effect",
        }
    ],
    "wic": [{"word": "bank", "sentence1": "The bank.", "sentence2": "A bank account."}],
}
MULTIRC = [
    {
        "paragraph": "<b>Sent 1: </b>He came.<br><b>Sent 2: </b>She <i>left</i>.<br/>",
        "question": "Who <b>came</b>?",
        "answer": answer,
        "label": label,
        "idx": {"paragraph": 3, "question": 7, "answer": number},
    }
    for number, (answer, label) in enumerate([("He", 1), ("", 0), ("Her's", -1)])
]
SCORES = [0.0, 0.1, 0.3, 1.1, 2.5, 2.499, 3.6, 4.9000001, 4.95, 5.0, 0.7, 1.9, 3.3333]
WSC = {
    "text": "Mark told Pete many lies about himself, which Pete included in his book .",
    **{"span1_text": "Mark", "span1_index": 0, "span2_text": "his", "span2_index": 11},
    **{"label": 1, "idx": 5},
}
WSC_CASES = [
    WSC,
    {**WSC, "label": 0, "span1_text": "Pete", "span1_index": 2},
    {**WSC, "label": -1, "span1_text": "Pete", "span1_index": 8, "idx": 6},
    {
        "text": "Señor García gave  José the book because he Ünwanted X it.",
        **{"span1_text": "José", "span1_index": 4, "span2_text": "he", "span2_index": 8},
        **{"label": 1, "idx": 0},
    },
    {
        "text": "The trophy doesn't fit in the brown suitcase because it is too big. ",
        **{"span1_text": "The trophy", "span1_index": 0, "span2_text": "it", "span2_index": 9},
        **{"label": 1, "idx": 1},
    },
]
# Two of SuperGLUE whose index does not fit the text, which the code of T5 names.
WSC_ODD = [
    {
        "text": "The boy continued to whip the pony , and eventually the pony threw him over. "
        'John laughed out quite loud. "Good for him," he said. ',
        **{"span1_text": "John", "span1_index": 15, "span2_text": "him", "span2_index": 22},
        **{"label": 0, "idx": 2},
    },
    {
        "text": "When they had eventually calmed down a bit , and had gotten home, Mr. Farley put "
        "the magic pebble in an iron safe . Some day they might want to use it , but really for "
        "now, what more could they wish for?",
        **{"span1_text": "The pebble", "span1_index": 16, "span2_text": "it", "span2_index": 28},
        **{"label": 1, "idx": 3},
    },
]
RECORDS = [
    {
        "passage": 'It said "so"\n@highlight\nThen\n@highlight\nmore?\n@highlight\nÉnd',
        "query": "A @placeholder is a bird.",
        "entities": ["Penguin", "Straße 1", "pigeon"],
        "answers": answers,
        "idx": {"passage": 1, "query": number},
    }
    for number, answers in enumerate([["Penguin", "pigeon"], [], ["Straße 1"]])
]
QUESTIONS = [
    {
        "id": "a",
        "question": "Who's (the) author -- of “X_Y”?",
        "context": "J.K.  Rowling\nwrote 3.5 books; cost: $5\u201310!",
        "answers": {"text": ["J.K. Rowling", "Rowling", "rowling"]},
    },
    {
        "id": "b",
        "question": "",
        "context": "東京は首都です。",
        "answers": {"text": ["東京"]},
    },
]
TRIVIA = {
    "question": "Which city?",
    "entity_pages": {"wiki_context": ["Paris is in France.", "Nothing here"]},
    "search_results": {"search_context": ["I love PARIS, the city of light"]},
    "answer": {"normalized_aliases": ["paris", "city of light", "lutetia"]},
}
PRONOUNS = [
    {
        "sentence": "Bob asked Tom if he can lend some money, but he can't.",
        **{"pronoun": "he", "candidates": ["Bob", "Tom"], "label": 1},
    },
    {
        "sentence": "The bees stung the men because they.",
        **{"pronoun": "they", "candidates": ["The bees", "The men"], "label": 0},
    },
]
WNLI = [
    {"sentence1": premise, "sentence2": hypothesis, "label": i % 2, "idx": i}
    for i, (premise, hypothesis) in enumerate(
        [
            ("The fish ate the worm. It was tasty.", "The worm was tasty."),
            (
                "Anna did a lot better than her good friend Lucy on the test because she had "
                "studied so hard.",
                "Lucy had studied so hard.",
            ),
            (
                "Joe has sold his house and bought a new one a few miles away. He will be moving "
                "out of it on Thursday.",
                "Joe will be moving out of the old house on Thursday.",
            ),
            (
                "The cat hid behind the sofa, while they looked for him!",
                "They looked for the cat!",
            ),
            (
                "Zoë met José\u2019s aunt; she gave him her hat.",
                "José\u2019s aunt gave him her hat.",
            ),
            ("The dog chased the boy. The boy lost his shoe.", "The dog's shoe"),
            (
                "I could not find a spoon, so I tried using a pen. It was no use.",
                "The pen was no use.",
            ),
            ("When it fell on the mat, Ann said so.", "When the very old vase fell on the mat"),
        ]
    )
]
CHOICES = [
    {
        "premise": f"Number {i} é.",
        "question": "cause",
        **{"choice1": "It rained.", "choice2": "", "label": label, "weight": 0.5 + i},
    }
    for i, label in enumerate([1, 0])
]


def cases() -> list[tuple[str, Mapping[str, Any], Sequence[Example]]]:
    """Returns the name of a function, its arguments, and examples."""
    result: list[tuple[str, Mapping[str, Any], Sequence[Example]]] = []
    for name, texts in TEXTS.items():
        labels = [*range(len(LABELS[name])), -1]
        arguments: dict[str, Any] = {"benchmark_name": name, "label_names": LABELS[name]}
        if name == "wic":
            arguments["feature_names"] = ["sentence1", "sentence2", "word"]
        examples = [{**x, "label": y, "idx": 4 + y} for x in texts for y in labels]
        result.append(("glue", arguments, examples))
    of_multirc = {
        **{"benchmark_name": "multirc", "label_names": LABELS["multirc"]},
        "feature_names": ["question", "answer", "paragraph"],
    }
    result.append(("glue", of_multirc, MULTIRC))
    scored = [
        {"sentence1": "Café", "sentence2": "", "label": x, "idx": i} for i, x in enumerate(SCORES)
    ]
    formats = {
        "inputs_formats": "{premise} What is the {question}? X",
        "targets_formats": ["I think {choice1}", "I think {choice2}"],
    }
    return [
        *result,
        ("stsb", {}, scored),
        ("wsc", {}, WSC_CASES),
        ("wsc_simple", {}, [*WSC_CASES, *WSC_ODD]),
        ("wsc_simple", {"correct_referent_only": True}, [*WSC_CASES, *WSC_ODD]),
        ("record", {}, RECORDS),
        ("squad", {}, QUESTIONS),
        ("squad", {"include_context": False}, QUESTIONS),
        ("trivia_qa", {}, [TRIVIA]),
        ("definite_pronoun_resolution_simple", {}, PRONOUNS),
        ("wnli_simple", {}, WNLI),
        ("rank_classification_formatter", {**formats, "mode": "eval"}, CHOICES),
        ("rank_classification_formatter", {**formats, "mode": "train"}, CHOICES),
        (
            "rank_classification_formatter",
            {**formats, "mode": "eval", "weight_key": "weight"},
            CHOICES,
        ),
        (
            "translate",
            {"source_language": "en", "target_language": "de"},
            [{"en": "That is — good.\n", "de": "Das ist „gut“."}, {"en": "", "de": ""}],
        ),
        (
            "summarize",
            {"article_key": "article", "summary_key": "highlights"},
            [{"article": "(CNN) é . \nMore", "highlights": "One .\nTwo ."}],
        ),
    ]


def dataset_of(examples: Sequence[Example]) -> tf.data.Dataset:
    """Lists may be of different lengths."""

    def spec(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: spec(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return tf.TensorSpec([None], tf.string)
        dtypes = {str: tf.string, int: tf.int32, float: tf.float32}
        return tf.TensorSpec([], dtypes[type(value)])

    return tf.data.Dataset.from_generator(
        lambda: iter(examples), output_signature=spec(examples[0])
    )


def plain(value: Any) -> Any:
    """Returns JSON of a numpy value."""
    if isinstance(value, bytes):
        return value.decode()
    listed = value.tolist()
    if isinstance(listed, list):
        return [x.decode() if isinstance(x, bytes) else x for x in listed]
    return listed.decode() if isinstance(listed, bytes) else listed


def main() -> None:
    preprocessors = import_preprocessors()
    stored = []
    for name, arguments, examples in cases():
        dataset = getattr(preprocessors, name)(dataset_of(examples), **arguments)
        results = [
            {key: plain(value) for key, value in result.items()}
            for result in dataset.as_numpy_iterator()
        ]
        case = {"function": name, "arguments": arguments, "examples": examples}
        stored.append({**case, "results": results})
    lines = ",\n".join(json.dumps(case) for case in stored)
    (FOLDER / "t5_preprocessors.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
