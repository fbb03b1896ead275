"""Makes t5_metrics.json: texts, and what t5.evaluation.metrics returns for them.

Run it with t5 0.9.4, without most of its requirements: python3 -m venv /tmp/t5 &&
/tmp/t5/bin/pip install t5==0.9.4 --no-deps && /tmp/t5/bin/pip install absl-py editdistance pandas \
rouge-score sacrebleu scikit-learn && /tmp/t5/bin/python tests/oracle/make_t5_metrics.py
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import pathlib
import random
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

FOLDER = pathlib.Path(__file__).parent


def import_parts_of_t5(*names: str) -> Iterator[Any]:
    """Imports modules of t5 without the packages above them, which import seqio."""
    spec = importlib.util.find_spec("t5")
    assert spec is not None and spec.submodule_search_locations is not None
    root = pathlib.Path(spec.submodule_search_locations[0])
    for package in ("t5", "t5.evaluation", "t5.data"):
        module = types.ModuleType(package)
        module.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
        sys.modules[package] = module
    return map(importlib.import_module, names)


def stand_in_for_tensorflow() -> None:
    """Of TensorFlow the postprocessors need only `as_text`."""
    names = ("tensorflow", "tensorflow.compat", "tensorflow.compat.v2")
    top, compat, v2 = modules = [types.ModuleType(name) for name in names]
    sys.modules |= dict(zip(names, modules, strict=True))
    vars(top)["compat"], vars(compat)["v2"] = compat, v2
    as_text = {"as_text": lambda x: x.decode() if isinstance(x, bytes) else x}
    vars(v2)["compat"] = types.SimpleNamespace(**as_text)


stand_in_for_tensorflow()
metrics, postprocessors = import_parts_of_t5("t5.evaluation.metrics", "t5.data.postprocessors")

ANSWERS = [
    ["The Eiffel Tower", "Tour Eiffel", "la tour Eiffel"],
    ["1,066"],
    ["U.S. Army", "the army of the United States"],
    ["Motörhead", "MOTÖRHEAD!"],
    ["an apple a day", "apple"],
    ["the"],
    [""],
    ["Jay-Z", "Shawn “Jay\u2011Z” Carter"],
    ["O\u2019Brien\u2019s `pub`", "O'Brien"],
    ["東京", "Tokyo"],
    ["straße STRASSE", "İstanbul"],
    ["rock_and_roll"],
    ["a  b\tc\nd"],
]
ANSWERS_PREDICTED = [
    "eiffel tower",
    "1066",
    "us army",
    "motörhead",
    "apples a day",
    "",
    "the a an",
    "jay z",
    "o brien s pub",
    "東 京",
    "strasse straße",
    "rock and roll",
    "b c d d",
]
SENTENCES = [
    "The cat sat on the mat . It was black . ",
    "«Le chat…» dit-il — «oui».",
    "Das ist gut.",
    "",
    "One two three four five six",
    "naïve café, déjà-vu",
    "x",
]
SENTENCES_PREDICTED = [
    "The cat is on the mat . It is black . ",
    "«Le chat» dit-il — «oui».",
    "Das ist nicht gut",
    "",
    "six five four three two one",
    "Naive cafe, deja vu",
    "",
]
REFERENTS = [
    ("the fuzzy bunny", 1, "bunny"),
    ("the fuzzy bunny", 0, "bunny"),
    ("Bob's hat", 1, "Bob"),
    ("Bob", 1, "bob"),
    ("Bob's hat", 0, "his hat"),
    ("the trees", 1, " The Trees "),
    ("his mother", 1, "mother in law"),
    ("the", 0, "cat"),
    ("Mr. Taylor", 0, ""),
    ("Mr. Taylor", 0, "the"),
    ("Señor  Ñ", 1, "señor ñ"),
    ("John", -1, "John"),
]


def metrics_of_texts() -> dict[str, Any]:
    cases: dict[str, Any] = {
        "squad": (ANSWERS, ANSWERS_PREDICTED),
        "trivia_qa": (ANSWERS, ANSWERS_PREDICTED),
        "coqa_f1": (ANSWERS, ANSWERS_PREDICTED),
        "bleu": (SENTENCES, SENTENCES_PREDICTED),
        "edit_distance": (SENTENCES, SENTENCES_PREDICTED),
        "sequence_accuracy": (SENTENCES, SENTENCES_PREDICTED),
        "accuracy": (SENTENCES, SENTENCES_PREDICTED),
    }
    for row, (answers, prediction) in enumerate(zip(ANSWERS, ANSWERS_PREDICTED, strict=True)):
        for name in ("squad", "trivia_qa", "coqa_f1"):
            cases[f"{name}/{row}"] = ([answers], [prediction])
    for row, case in enumerate(zip(SENTENCES, SENTENCES_PREDICTED, strict=True)):
        cases[f"edit_distance/{row}"] = tuple([text] for text in case)
        # The bootstrap of one text is that text's value.
        cases[f"rouge/{row}"] = cases[f"edit_distance/{row}"]
    return cases


def metrics_of_labels() -> dict[str, Any]:
    draw = random.Random(0)
    binary = [draw.randint(0, 1) for _ in range(40)]
    guessed = [draw.choice([-1, 0, 1]) for _ in range(40)]
    of_three = [draw.randint(0, 2) for _ in range(40)]
    guessed_of_three = [draw.choice([-1, 0, 1, 2]) for _ in range(40)]
    scores = [round(draw.uniform(0, 5) * 5) / 5 for _ in range(40)]
    predicted = [
        -1.0 if i % 13 == 0 else round(x + draw.gauss(0, 1), 1) for i, x in enumerate(scores)
    ]
    return {
        "accuracy/labels": (binary, guessed),
        "f1_score_with_invalid": (binary, guessed),
        "f1_score_with_invalid/none": ([0, 0, 1], [0, 0, 0]),
        "matthews_corrcoef": (binary, guessed),
        "matthews_corrcoef/constant": ([0, 1, 1], [1, 1, 1]),
        "mean_3class_f1": (of_three, guessed_of_three),
        "mean_3class_f1/two_classes": ([0, 1, 1, 0], [0, 1, -1, 1]),
        "pearson_corrcoef": (scores, predicted),
        "spearman_corrcoef": (scores, predicted),
        "auc": (binary, [round(draw.random() + x / 4, 1) for x in binary]),
        "auc/threshold": (scores, predicted),
    }


def metrics_of_groups() -> dict[str, Any]:
    draw = random.Random(1)
    groups = [draw.randint(0, 8) for _ in range(30)]
    labels = [draw.randint(0, 1) for _ in groups]
    guessed = [x if draw.random() < 0.8 else draw.choice([-1, 0, 1]) for x in labels]
    passages = [[i // 3, i % 2] for i in range(len(ANSWERS))]
    return {
        "multirc_f1_over_all_answers": ([[groups, labels]], guessed),
        "mean_group_metric": ([[groups, labels]], guessed),
        "deduplicate_metric": ([[passages, ANSWERS]], ANSWERS_PREDICTED),
    }


def scores_of_classes(num_classes: int, seed: int, several: bool = False) -> Any:
    """Returns [idx, is_correct, weight, number of tokens] for each score, not in order."""
    draw = random.Random(seed)
    targets = []
    for number in range(25):
        correct = {draw.randrange(num_classes), draw.randrange(num_classes) if several else -1}
        weight = draw.choice([0.5, 1.0, 2.0])
        targets += [
            [[number, i], i in correct, weight, draw.randint(1, 5)] for i in range(num_classes)
        ]
    draw.shuffle(targets)
    return targets, [round(-4 * draw.random(), 1) for _ in targets]


def metrics_of_scores() -> dict[str, Any]:
    cases = {
        f"rank_classification/{num_classes}": scores_of_classes(num_classes, num_classes)
        for num_classes in (2, 3)
    }
    cases["rank_classification/several"] = scores_of_classes(4, 7, several=True)
    cases["rank_classification/varying"] = scores_of_classes(3, 8)
    cases["rank_classification/by_length"] = scores_of_classes(2, 9)
    return cases


def value_of(name: str, targets: Any, predictions: Any) -> Any:
    metric, _, variant = name.partition("/")
    if metric == "matthews_corrcoef":
        function = metrics.sklearn_metrics_wrapper(metric, metric_post_process_fn=lambda x: 100 * x)
    elif metric == "mean_3class_f1":
        function = metrics.mean_multiclass_f1(num_classes=3)
    elif metric == "rank_classification":
        targets = [(tuple(idx), *more) for idx, *more in targets]
        return metrics.rank_classification(
            targets,
            predictions,
            num_classes={"2": 2, "3": 3, "several": 4, "by_length": 2}.get(variant),
            normalize_by_target_length=variant == "by_length",
        )
    elif metric in ("multirc_f1_over_all_answers", "mean_group_metric", "deduplicate_metric"):
        ((groups, values),) = targets
        targets = [
            {"group": tuple(group) if isinstance(group, list) else group, "value": value}
            for group, value in zip(groups, values, strict=True)
        ]
        predictions = [{"value": value} for value in predictions]
        function = {
            "mean_group_metric": metrics.mean_group_metric(metrics.all_match),
            "deduplicate_metric": metrics.deduplicate_metric(metrics.squad),
        }.get(metric, metrics.multirc_f1_over_all_answers)
    elif variant == "threshold":
        return metrics.auc(targets, predictions, targets_threshold=2.5)
    else:
        function = getattr(metrics, metric)
    return function(targets, predictions)


def wsc_cases() -> dict[str, Any]:
    simple = postprocessors.wsc_simple
    targets, predictions = [], []
    for referent, label, prediction in REFERENTS:
        example = {"targets_pretokenized": referent.encode(), "label": label}
        targets.append(simple("", example=example, is_target=True))
        predictions.append(simple(prediction, example=example))
    return {
        "referents": [[text, label] for text, label, _ in REFERENTS],
        "predictions": [prediction for *_, prediction in REFERENTS],
        "named": predictions,
        "values": metrics.accuracy(targets, predictions),
    }


def main() -> None:
    cases = {
        **metrics_of_texts(),
        **metrics_of_labels(),
        **metrics_of_groups(),
        **metrics_of_scores(),
    }
    stored = {}
    for name, (targets, predictions) in cases.items():
        values = value_of(name, targets, predictions)
        stored[name] = {
            "targets": targets,
            "predictions": predictions,
            "values": {key: float(np.asarray(value)) for key, value in values.items()},
        }
    stored["wsc_simple"] = wsc_cases()
    text = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in stored.items())
    (FOLDER / "t5_metrics.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
