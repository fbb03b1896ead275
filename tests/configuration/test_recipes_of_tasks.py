"""Recipes of T5's tasks: each reads local files, writes T5's texts and computes T5's metrics."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mtfrun import data
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.configuration.files import shipped_gin_files
from mtfrun.experiment import Experiment
from mtfrun.experiment.runs.opening import ROOTS, build
from tests.cli.command import TINY

Row = Mapping[str, Any]
PAIR = {"premise": "It rains.", "hypothesis": "It is wet."}
PAIR_TEXT = "hypothesis: It is wet. premise: It rains."
SENTENCES = {"sentence1": "It rains.", "sentence2": "It is wet."}
MULTIRC = {"paragraph": "<b>Sent 1: </b>Ann sang.<br>", "question": "Who?"}
RECORD = {"passage": "Ann sang\n@highlight\nto Bob", "query": "@placeholder sang."}
WSC = {
    **{"text": "Bob asked Tom if he can lend money.", "span1_text": "Tom"},
    **{"span2_text": "he", "span2_index": 4},
}
QUESTION = {"question": "Who sang?", "context": "Ann sang."}
SUMMARY = {"article": "Ann sang . Bob heard .", "highlights": "Ann sang ."}
WSC_TEXTS = ("wsc: Bob asked Tom if *he* can lend money.", "Tom")
COPA = {"premise": "Rain.", "choice1": "Wet.", "choice2": "Dry.", "question": "effect", "label": 0}
WNLI = {"sentence1": "The fish ate it.", "sentence2": "The fish ate ham.", "label": 1}
RECORD_ANSWERS = {"entities": ["Ann", "Bob"], "answers": ["Ann"]}
TRIVIA = {
    **{"question": "Who sang?", "entity_pages": {"wiki_context": ["Ann sang."]}},
    **{"search_results": {"search_context": []}, "answer": {"normalized_aliases": ["ann", "bob"]}},
}
DPR = {"sentence": WSC["text"], "pronoun": "he", "candidates": ["Bob", "Tom"], "label": 1}
S1_S2 = "sentence1: It rains. sentence2: It is wet."
QUESTION_TEXT = "question: Who sang ? context: Ann sang . "
LANGUAGES = {"de": "German", "fr": "French", "ro": "Romanian"}
# By name in TFDS: a row of a file, and the texts that it becomes.
ROWS: dict[str, tuple[Row, str, str]] = {
    "glue/cola": ({"sentence": "Ann sang.", "label": 1}, "cola sentence: Ann sang.", "acceptable"),
    "glue/sst2": ({"sentence": "a film ", "label": 1}, "sst2 sentence: a film ", "positive"),
    "glue/mrpc": ({**SENTENCES, "label": 1}, f"mrpc {S1_S2}", "equivalent"),
    "glue/qqp": (
        {"question1": "Why?", "question2": "What for?", "label": 1},
        *("qqp question1: Why? question2: What for?", "duplicate"),
    ),
    "glue/stsb": ({**SENTENCES, "label": 2.5}, f"stsb {S1_S2}", "2.4"),
    "glue/mnli": ({**PAIR, "label": 1}, f"mnli {PAIR_TEXT}", "neutral"),
    "glue/qnli": (
        {"question": "When?", "sentence": "In 1066.", "label": 0},
        *("qnli question: When? sentence: In 1066.", "entailment"),
    ),
    "glue/rte": ({**SENTENCES, "label": "not_entailment"}, f"rte {S1_S2}", "not_entailment"),
    "glue/wnli": (WNLI, "wsc: The fish ate *it* .", "ham"),
    "super_glue/boolq": (
        {"question": "is it", "passage": "It is.", "label": True},
        *("boolq passage: It is. question: is it", "True"),
    ),
    "super_glue/cb": ({**PAIR, "label": 2}, f"cb {PAIR_TEXT}", "neutral"),
    "super_glue/copa": (
        *(COPA, "copa choice1: Wet. choice2: Dry. premise: Rain. question: effect", "choice1"),
    ),
    "super_glue/multirc": (
        {**MULTIRC, "answer": "Ann", "label": 1, "idx": {"question": 7}},
        *("multirc question: Who? answer: Ann paragraph: Sent 1: Ann sang. ", "True"),
    ),
    "super_glue/record": (
        {**RECORD, **RECORD_ANSWERS, "idx": {"passage": 1, "query": 2}},
        *("record query: @placeholder sang. entities: Ann, Bob passage: Ann sang. to Bob", "Ann"),
    ),
    "super_glue/rte": ({**PAIR, "label": 0}, f"rte {PAIR_TEXT}", "entailment"),
    "super_glue/wic": (
        {"word": "is", **SENTENCES, "label": False},
        f"wic {S1_S2} word: is",
        "False",
    ),
    "super_glue/wsc.fixed": ({**WSC, "label": 1}, *WSC_TEXTS),
    "definite_pronoun_resolution": (DPR, *WSC_TEXTS),
    "squad/v1.1": ({**QUESTION, "answers": {"text": ["Ann", "Ann Lee"]}}, QUESTION_TEXT, "Ann"),
    "trivia_qa/rc": (TRIVIA, QUESTION_TEXT, "ann"),
    "cnn_dailymail": (SUMMARY, "summarize: Ann sang . Bob heard .", "Ann sang ."),
}
PAIRS = ["wmt14_de", "wmt14_fr", "wmt15_fr", "wmt16_ro", "wmt19_de", "wmt_t2t_de"]
for dataset, _, code in (pair.rpartition("_") for pair in PAIRS):
    ROWS[f"{dataset}_translate/{code}-en"] = (
        {"en": "Ann sang.", code: "a b c d e"},
        *(f"translate English to {LANGUAGES[code]}: Ann sang.", "a b c d e"),
    )


def _recipe(name: str) -> str:
    name = re.sub(r"_translate/(..)-en", r"_en\1", name)
    return re.sub(r"\.fixed|/v1\.1|/rc", "", name).replace("/", "_")


TFDS_NAMES = {_recipe(name): name for name in ROWS}
RECIPES = {x for x in shipped_gin_files() if x.startswith("extras/t5/tasks/")}
MIXTURES = ["glue", "super_glue"]
OTHERS = ["squad", "trivia_qa", "wmt16_enro"]
RANKED = "super_glue_copa_ranked"
# Metrics of equal texts; constant labels have no correlation, and a row of one class no mean.
VALUES = {"matthews_corrcoef": 0.0, "mean_3class_f1": 100 / 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("tasks")
    for name, (row, *_) in ROWS.items():
        path = directory / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    pattern = f"{directory}/{{name}}.jsonl"
    return f"--gin.LOCAL_FILES={{'train': '{pattern}', 'validation': '{pattern}'}}"


def _mixture(recipe: str, *flags: str) -> data.Mixture:
    bindings = parse_flags(["train", "--dry_run", "--gin_file=x", *TINY, *flags]).bindings
    gin_files = ["defaults.gin", "models/t5.1.1.tiny.gin", f"tasks/{recipe}.gin"]
    config.parse(gin_files, bindings, roots=ROOTS)
    of_recipe = build()[0].data
    assert isinstance(of_recipe, data.TaskData)
    return of_recipe.mixture


def _values(task: data.Task, example: data.Fields) -> dict[str, float]:
    reference = task.reference_of(example)
    prediction = task.postprocess(example["targets"].decode())
    values: dict[str, float] = {}
    for metric in task.metrics:
        values |= metric([reference] * 2, [prediction] * 2)
    return values


def test_every_recipe_has_a_row() -> None:
    names = {path.removeprefix("extras/t5/tasks/").removesuffix(".gin") for path in RECIPES}
    assert names - set(TFDS_NAMES) == {"base", RANKED, *MIXTURES}
    assert set(TFDS_NAMES) < names


@pytest.mark.parametrize(
    "recipe",
    [
        *(*MIXTURES, *OTHERS),
        *(pytest.param(name, marks=pytest.mark.slow) for name in TFDS_NAMES if name not in OTHERS),
    ],
)
def test_a_recipe_writes_the_texts_of_t5_and_has_its_metrics(recipe: str, files: str) -> None:
    for task in _mixture(recipe, files).tasks:
        _, inputs, targets = ROWS[TFDS_NAMES[task.title]]
        for split in ("train", "validation"):
            (example,) = task.examples(split)
            texts = [example.fields[x].decode() for x in ("inputs", "targets")]
            assert texts == [inputs, targets]
        assert task.metrics
        if task.title != "glue_stsb":
            values = _values(task, example.fields)
            assert values == pytest.approx({x: VALUES.get(x, 100.0) for x in values})


@pytest.mark.parametrize(
    ("recipe", "first", "last"), [("glue", 8551, 2490), ("super_glue", 1322, 5428)]
)
def test_a_mixture_reads_tfds_at_the_rates_of_t5(recipe: str, first: int, last: int) -> None:
    mixture = _mixture(recipe)
    assert isinstance(mixture.rates, Sequence)
    assert (mixture.rates[0], mixture.rates[-1]) == (first, last)
    for task in mixture.tasks:
        assert isinstance(task.source, data.Tfds)
        assert task.source.name == TFDS_NAMES[task.title]
        assert not task.source.download


def test_wsc_is_trained_on_right_referents_only(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "wsc.jsonl"
    rows = [{**WSC, "label": False, "span1_text": "Bob"}, {**WSC, "label": True}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    patterns = {"train": str(path), "validation": str(path)}
    (task,) = _mixture("super_glue_wsc", f"--gin.LOCAL_FILES={patterns}").tasks
    targets = {
        split: [example.fields["targets"] for example in task.examples(split)] for split in patterns
    }
    assert targets == {"train": [b"Tom"], "validation": [b"Bob", b"Tom"]}


def test_choices_are_ranked_in_evaluations_and_the_right_one_is_trained_on(files: str) -> None:
    (task,) = _mixture(RANKED, files).tasks
    question = "Rain. What was the effect? X"
    pairs = {
        split: [
            tuple(example.fields[x].decode() for x in ("inputs", "targets", "is_correct"))
            for example in task.examples(split)
        ]
        for split in ("train", "validation")
    }
    right, wrong = (question, "I think Wet.", "True"), (question, "I think Dry.", "False")
    assert pairs == {"train": [right], "validation": [right, wrong]}


BASE = ["defaults.gin", "models/t5.1.1.tiny.gin"]


def _experiment(files: list[str], *flags: str) -> Experiment:
    arguments = ["train", "--dry_run", "--gin_file=x", *TINY, *flags]
    config.parse([*BASE, *files], parse_flags(arguments).bindings, roots=ROOTS)
    experiment, _ = build()
    return experiment


@pytest.mark.parametrize("macro", ["MIXTURE_OR_TASK_NAME", "MIXTURE_NAME"])
def test_a_task_is_chosen_by_its_name(macro: str) -> None:
    chosen = _experiment(["data/number_tasks.gin"], f"--gin.{macro}='read'").data
    assert isinstance(chosen, data.TaskData)
    assert [task.title for task in chosen.mixture.tasks] == ["read"]
    (task,) = chosen.mixture.tasks
    assert isinstance(task.source, data.Tfds)
    assert task.source.fields == {"inputs": "words", "targets": "number"}


def test_the_mixture_is_evaluated_by_task() -> None:
    assert list(_experiment(["data/number_tasks.gin"]).data.by_task()) == ["spell", "read"]


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(data.DataError, match=r'no task or mixture "raed".*did you mean \'read\''):
        _experiment(["data/number_tasks.gin"], "--gin.MIXTURE_OR_TASK_NAME='raed'")


def test_lengths_are_given_as_in_t5() -> None:
    lengths = "--gin.TASK_FEATURE_LENGTHS={'inputs': 20, 'targets': 12}"
    files = ["data/tsv_pairs.gin", "data/task_feature_lengths.gin"]
    shapes = _experiment(files, lengths, "--gin.TSV_FILES='x'").data.shapes(2)
    assert shapes["inputs"].to_integer_list == [2, 20]
    assert shapes["targets"].to_integer_list == [2, 12]
