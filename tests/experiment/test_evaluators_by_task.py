"""Evaluators of tasks: names of metrics, the tasks' own metrics, and the likeliest labels."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import data, mtf
from mtfrun.errors import InputError
from mtfrun.experiment import DecodedPairs, Decoding, Evaluation, Experiment, RankedLabels
from mtfrun.experiment.evaluation.evaluation import EvaluationContext
from mtfrun.experiment.evaluation.evaluators import markdown_table
from mtfrun.models.transformer import (
    AttentionHeads,
    EncoderDecoder,
    EncoderDecoderAttention,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from tests.data.in_memory import pairs_task
from tests.layouts import ONE_DEVICE

LABELS = ("no", "yes", "perhaps not")
LETTERS = "abcdefghij"
CONTEXT = EvaluationContext({}, {}, is_shown=True, progress=lambda _: None)


def small_experiment(task: data.Task | data.Mixture) -> Experiment:
    """Returns an initialised encoder-decoder of one layer each, and pairs."""
    heads = AttentionHeads(num_heads=2, d_kv=8)
    attention = functools.partial(SelfAttention, heads=heads)
    feed_forward = functools.partial(FeedForward, d_ff=32)
    to_encoder = functools.partial(EncoderDecoderAttention, heads=heads)
    stack = functools.partial(Stack, num_layers=1)
    model = functools.partial(
        EncoderDecoder,
        embedding=TokenEmbedding(d_model=16, max_length=16),
        encoder=functools.partial(stack, layers=[attention, feed_forward]),
        decoder=functools.partial(stack, layers=[attention, to_encoder, feed_forward]),
    )
    decoding = functools.partial(Decoding, batch_size=8, max_length=16, decode_length=4)
    experiment = Experiment(
        mtf.Mesh(ONE_DEVICE), model, data.SequenceToSequenceData(task, 16, 16), inference=decoding
    )
    mtf.initialize(experiment.model, seed=0)
    return experiment


def named_task(name: str, pairs: Sequence[tuple[str, str]], **settings: Any) -> data.Task:
    return dataclasses.replace(pairs_task(pairs), name=name, **settings)


def _label_task(targets: Sequence[str], **settings: Any) -> data.Task:
    return named_task(
        "labels", list(zip(LETTERS, targets, strict=False)), labels=LABELS, **settings
    )


def _number_of(label: str) -> int:
    return LABELS.index(label) if label in LABELS else -1


def _mixture() -> data.Mixture:
    other = named_task("words", [("one", "eins"), ("two", "zwei")])
    return data.Mixture([_label_task(["yes"] * 6), other], [1.0, 1.0])


def test_a_mixture_has_the_models_metrics_over_all_examples_and_of_every_task() -> None:
    experiment = small_experiment(_mixture())
    metrics = Evaluation(experiment, batch_size=4)(0)
    names = ("loss", "accuracy", "perplexity", "bits_per_byte")
    assert set(metrics) == {*names, *(f"{x}/{name}" for x in ("labels", "words") for name in names)}
    # Tokens with their ends: 6 times "yes", and two words of four letters.
    tokens = {"labels": 6 * 4, "words": 2 * 5}
    losses = [metrics[f"{name}/loss"] * count for name, count in tokens.items()]
    assert metrics["loss"] == pytest.approx(sum(losses) / sum(tokens.values()))


def test_an_evaluation_says_of_how_many_examples_its_decodes_are() -> None:
    experiment = small_experiment(_mixture())
    decoded = functools.partial(DecodedPairs, num_decodes=2)
    ranked = functools.partial(RankedLabels, num_examples=3)
    evaluation = Evaluation(experiment, batch_size=4, evaluators=[decoded, ranked])
    for some, numbers in (
        (evaluation, {"labels/exact_match": 2, "labels/ranked_accuracy": 3, "labels/split": 6}),
        (evaluation.of_all_examples(), {"labels/exact_match": 6, "labels/ranked_accuracy": 6}),
    ):
        details: dict[str, Any] = {}
        some(0, details=details)
        examples = details["examples"]
        assert {name: examples[name] for name in numbers} == numbers
        assert examples["words/bleu"] == examples["words/split"] == 2


@pytest.mark.slow
def test_one_task_has_metrics_without_its_name() -> None:
    alone = Evaluation(small_experiment(_label_task(["yes"] * 6)), batch_size=4)(0)
    mixed = Evaluation(small_experiment(_mixture()), batch_size=4)(0)
    assert "/" not in "".join(alone)
    assert alone["loss"] == pytest.approx(mixed["labels/loss"])


def test_metrics_of_tasks_belong_into_the_line_and_those_of_layers_do_not() -> None:
    evaluate = Evaluation(small_experiment(_mixture()), batch_size=4)
    names = ("loss", "labels/loss", "decoder/blocks/0/load")
    assert [evaluate.is_brief(name) for name in names] == [True, True, False]


def test_decodes_have_the_metrics_of_their_task() -> None:
    seen: list[tuple[Sequence[object], Sequence[object]]] = []

    def count(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        seen.append((targets, predictions))
        return {"examples": float(len(targets))}

    labels = _label_task(["yes", "no", "yes"], metrics=[count], postprocess=_number_of)
    words = named_task("words", [("one", "eins"), ("two", "zwei")])
    experiment = small_experiment(data.Mixture([labels, words], [1.0, 1.0]))
    result = DecodedPairs(experiment, "validation", num_decodes=8)(CONTEXT)
    assert set(result.metrics) == {
        *("labels/examples", "labels/token_accuracy"),
        *("words/exact_match", "words/bleu", "words/chrf", "words/token_accuracy"),
    }
    assert set(result.texts) == {"labels/decodes", "words/decodes"}
    assert result.metrics["labels/examples"] == 3
    ((targets, predictions),) = seen
    assert sorted(map(str, targets)) == ["0", "1", "1"]
    assert set(predictions) <= {-1, 0, 1, 2}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "the metric half returned 0.5: return a dict"),
        ({"a": "b"}, "'b': metrics are numbers"),
    ],
)
def test_a_metric_that_returns_no_numbers_by_name_is_named(returned: Any, message: str) -> None:
    def half(targets: Sequence[object], predictions: Sequence[object]) -> Any:
        return returned

    experiment = small_experiment(_label_task(["yes", "no"], metrics=[half]))
    decoded = functools.partial(DecodedPairs, num_decodes=2)
    with pytest.raises(InputError, match=message):
        Evaluation(experiment, batch_size=4, evaluators=[decoded])(0)


def test_what_an_evaluator_returns_is_checked() -> None:
    class Wrong(DecodedPairs):
        def __call__(self, context: EvaluationContext) -> Any:
            return {"a": 1.0}

    experiment = small_experiment(_label_task(["yes", "no"]))
    with pytest.raises(InputError, match="Wrong returned dict: an evaluator returns"):
        Evaluation(experiment, batch_size=4, evaluators=[Wrong])(0)


def _likeliest_labels() -> list[str]:
    """Returns the labels that an untrained model finds likeliest, scored one by one."""
    inference = small_experiment(_label_task(["no"] * len(LETTERS))).inference

    def likeliest(letter: str) -> str:
        records = [inference.scores([(letter.encode(), x.encode())])[0] for x in LABELS]
        scores = np.array([record.fields["log_likelihood"] for record in records], np.float64)
        return LABELS[int(np.argmax(scores))]

    return [likeliest(letter) for letter in LETTERS]


def test_labels_are_ranked_by_the_likelihood_of_all_their_tokens() -> None:
    targets = _likeliest_labels()

    def ranked_accuracy(targets: Sequence[str]) -> float:
        experiment = small_experiment(_label_task(targets))
        result = RankedLabels(experiment, "validation", num_examples=100)(CONTEXT)
        assert set(result.metrics) == {"ranked_accuracy"}
        return result.metrics["ranked_accuracy"]

    assert ranked_accuracy(targets) == 1.0
    wrong = [LABELS[LABELS.index(label) - 1] for label in targets[:3]]
    assert ranked_accuracy([*wrong, *targets[3:]]) == pytest.approx(0.7)


def test_only_tasks_with_labels_are_ranked() -> None:
    result = RankedLabels(small_experiment(_mixture()), "validation", num_examples=2)(CONTEXT)
    assert set(result.metrics) == {"labels/ranked_accuracy"}
    with pytest.raises(InputError, match="needs a task with labels"):
        RankedLabels(
            small_experiment(named_task("words", [("one", "eins")])), "validation", num_examples=2
        )


def test_a_target_that_is_no_label_is_refused_by_name() -> None:
    experiment = small_experiment(_label_task(["yes", "maybe"]))
    with pytest.raises(InputError, match='"maybe" is none of'):
        RankedLabels(experiment, "validation", num_examples=2)(CONTEXT)


def test_metrics_see_references_of_all_pairs() -> None:
    seen: list[Sequence[object]] = []

    def collect(references: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
        seen.append(references)
        return {"examples": float(len(predictions))}

    pairs = [("one", "eins"), ("two", "zwei"), ("three", "drei")]
    task = named_task(
        "words", pairs, metrics=[collect], reference=lambda fields: fields["inputs"][:2]
    )
    result = DecodedPairs(small_experiment(task), "validation", num_decodes=None)(CONTEXT)
    assert result.metrics["examples"] == 3
    assert seen == [[b"on", b"tw", b"th"]]


def test_cells_of_tables_show_texts_as_they_are() -> None:
    table = markdown_table(["input"], [["a|b `c`\n  <d> "], ["x" * 2000]])
    first, second = table.splitlines()[2:]
    assert first.startswith("| a&#124;b &#96;c&#96;<br>&nbsp;") and first.count("|") == 2
    assert "<br>" in first and "\n" not in first and "&nbsp;" in first
    assert html.unescape(second).endswith("(2,000 characters) |") and len(second) < 1100
