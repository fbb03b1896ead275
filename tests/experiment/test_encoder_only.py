"""What an encoder is used for: filling in masks, and labels of texts."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pytest

from mtfrun import data, decoding, experiment, mtf
from mtfrun.errors import InputError
from mtfrun.experiment.evaluation.evaluation import class_counts
from mtfrun.experiment.experiment import check_rows
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.extras import text_tasks
from mtfrun.models import transformer as t
from tests.data.in_memory import InMemory, texts_task
from tests.layouts import ONE_DEVICE

VOCABULARY = data.ByteVocabulary()
LENGTH = 16
LABELS = ["animal", "plant", "stone"]
# Log-probabilities of compiled programs of two kinds.
TOLERANCE = 1e-4


def _experiment(rows: data.TextData) -> experiment.Experiment:
    attention = functools.partial(t.SelfAttention, heads=t.AttentionHeads(2, d_kv=4))
    stack = functools.partial(t.Stack, num_layers=1, layers=[attention])
    embedding = t.TokenEmbedding(d_model=8, max_length=LENGTH, tied_softmax=False)
    model = functools.partial(t.EncoderOnly, embedding=embedding, stack=stack)
    made = experiment.Experiment(mtf.Mesh(ONE_DEVICE), model, rows)
    mtf.initialize(made.model)
    return made


@pytest.fixture(scope="module")
def masked() -> experiment.Experiment:
    """An untrained encoder of text with masks."""
    return _experiment(data.MaskedLanguageModelData(texts_task([b"Some text."]), LENGTH))


@pytest.fixture(scope="module")
def labelled() -> experiment.Experiment:
    """An untrained encoder of labelled texts."""
    vocabulary = {"inputs": VOCABULARY, "targets": text_tasks.LabelVocabulary(LABELS)}
    source = InMemory(((b"a cat", b"animal"),), ("inputs", "targets"))
    return _experiment(text_tasks.TextClassificationData(data.Task(source, vocabulary), LENGTH))


def _log_probs(made: experiment.Experiment, ids: list[int]) -> np.ndarray:
    """Returns log-probabilities [length, vocabulary] for one row of inputs."""
    model = made.model
    assert isinstance(model, t.EncoderOnly)
    inputs = np.zeros([1, LENGTH], np.int32)
    inputs[0, : len(ids)] = ids
    shape = [mtf.Dimension("batch", 1), mtf.Dimension("length", LENGTH)]
    features = {"inputs": mtf.import_tf_tensor(made.mesh, inputs, shape)}
    logits: np.ndarray = mtf.to_numpy(mtf.function(model.logits)(features))[0]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("beam_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_masks_are_filled_in_and_the_rest_stays(
    masked: experiment.Experiment, beam_size: int
) -> None:
    prompts = [b"a \xff cat \xff.", b"no mask", b""]
    search = decoding.Search(beam_size=beam_size, alpha=0.0)
    decode = Decoding(masked, batch_size=4, max_length=LENGTH, search=search)
    answers = decode(prompts)
    ids = VOCABULARY.encode(prompts[0])
    log_probs = _log_probs(masked, ids.tolist())
    masks = np.flatnonzero(ids == VOCABULARY.sentinel(0))
    filled = ids.copy()
    filled[masks] = log_probs[masks].argmax(-1)
    assert answers[0].output == VOCABULARY.decode(filled)
    expected = log_probs[masks].max(-1).sum()
    assert answers[0].outputs[0].score == pytest.approx(expected, abs=TOLERANCE)
    assert [answer.output for answer in answers[1:]] == ["no mask", ""]


def test_outputs_are_labels_and_beams_are_the_best_ones(labelled: experiment.Experiment) -> None:
    search = decoding.Search(beam_size=3, alpha=0.0)
    decode = Decoding(labelled, batch_size=2, max_length=LENGTH, num_outputs=3, search=search)
    (answer,) = decode([b"a dog"])
    log_probs = _log_probs(labelled, [*VOCABULARY.encode(b"a dog").tolist(), VOCABULARY.end_id])[0]
    best = np.argsort(-log_probs)[:3]
    names = [labelled.data.vocabulary.decode([token]) for token in best]  # type: ignore[attr-defined]
    assert [output.text for output in answer.outputs] == names
    scores = [output.score for output in answer.outputs]
    np.testing.assert_allclose(scores, log_probs[best], atol=TOLERANCE)


def test_labels_for_a_model_of_another_padding_have_a_remedy_that_helps(
    labelled: experiment.Experiment,
) -> None:
    encoder = labelled.model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "padding_of", lambda name: -(name == "targets"))
        with pytest.raises(InputError, match=r"set LabelVocabulary\.own_softmax=True$"):
            check_rows(encoder, labelled.data)


def test_the_score_of_a_label_is_its_log_probability(labelled: experiment.Experiment) -> None:
    limits = data.PromptLimits(max_length=LENGTH, decode_length=1)
    pairs = [(b"a dog", label.encode()) for label in LABELS]
    scores = experiment.Scoring(labelled, 4, limits)(pairs)
    log_probs = _log_probs(labelled, [*VOCABULARY.encode(b"a dog").tolist(), VOCABULARY.end_id])[0]
    np.testing.assert_allclose(
        [score.log_likelihood for score in scores], log_probs[3:6], atol=TOLERANCE
    )
    assert [score.tokens for score in scores] == [1, 1, 1]


def test_an_evaluation_counts_the_labels_that_are_predicted_for_each(
    labelled: experiment.Experiment,
) -> None:
    details: dict[str, Any] = {}
    decode = Decoding(labelled, batch_size=2, max_length=LENGTH)
    labelled.inference = decode
    metrics = experiment.Evaluation(labelled, batch_size=1)(0, details=details)
    (answer,) = decode([b"a cat"])
    assert set(details) == {"confusion", "class_accuracy"}
    labels, counts = details["confusion"].values()
    assert np.sum(counts) == 1
    is_label = answer.output in LABELS
    predicted = labels.index(answer.output) if is_label else len(LABELS)
    assert counts[LABELS.index("animal")][predicted] == 1
    assert details["class_accuracy"] == {"animal": metrics["accuracy"]}


def test_an_encoder_of_masked_text_gives_its_weights_to_one_of_labels(
    masked: experiment.Experiment, labelled: experiment.Experiment
) -> None:
    shapes = [
        {path: variable.shape for path, variable in made.model.named_variables().items()}
        for made in (masked, labelled)
    ]
    assert shapes[0] == shapes[1]


def test_accuracy_is_that_of_the_labels(labelled: experiment.Experiment) -> None:
    metrics = experiment.Evaluation(labelled, batch_size=2)(0)
    log_probs = _log_probs(labelled, [*VOCABULARY.encode(b"a cat").tolist(), VOCABULARY.end_id])[0]
    assert metrics["loss"] == pytest.approx(-log_probs[3], abs=TOLERANCE)
    assert metrics["accuracy"] == float(log_probs.argmax() == 3)
    assert "bits_per_byte" not in metrics


def test_the_accuracy_of_one_of_several_labels_counts_its_presence() -> None:
    labels = text_tasks.LabelSetVocabulary(["sport", "money", "art"])
    vocabulary = {"inputs": VOCABULARY, "targets": labels}
    rows = ((b"a", b"art, sport"), (b"b", b""), (b"c", b"money"))
    task = data.Task(InMemory(rows, ("inputs", "targets")), vocabulary)
    outputs = {b"a": "art", b"b": "art", b"c": "money"}

    def records(prompts: list[bytes], _: object) -> list[Any]:
        return [types.SimpleNamespace(texts=[outputs[prompt]]) for prompt in prompts]

    inference = types.SimpleNamespace(records=records)
    made: Any = types.SimpleNamespace(
        data=text_tasks.TextClassificationData(task, length=8), inference=inference
    )
    assert class_counts(made, "validation", {}, lambda _: None) == {
        "class_accuracy": {"sport": 2 / 3, "money": 1.0, "art": 2 / 3}
    }
