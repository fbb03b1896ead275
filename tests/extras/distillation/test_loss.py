"""A student's loss is the one of the papers, in any layout, and its teacher does not change."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras.distillation.loss import DistillationLoss, Distiller
from mtfrun.extras.distillation.stored_logits import PARTS_OF_1, TEACHER_IDS, TEACHER_PROBABILITIES
from mtfrun.models.transformer import (
    DecoderOnly,
    FeedForward,
    Stack,
    TokenEmbedding,
    TokenLoss,
    TokenModel,
)
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens import token_softmax
from mtfrun.models.transformer.tokens.token_model import AddedLoss, LogitsLoss, TokenLossTerm
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    Step,
    assert_same_step,
    on_mesh,
    packed_rows,
    small_model,
    training_step,
    with_dropout,
)

# Probabilities are rounded to 1 / PARTS_OF_1.
STORED_TOLERANCE = 2e-3
SETTINGS = {
    "logits": DistillationLoss(temperature=3.0, weight=0.3),
    "vectors": DistillationLoss(temperature=0.5, weight=1.0, hidden_weight=0.7),
    "directions": DistillationLoss(weight=0.0, hidden_weight=2.0, hidden_distance="cosine"),
}
STEPS = [(True, "data:2,model:2"), (False, "data:4,model:2")]
CASES = [(name, *step) for name in SETTINGS for step in STEPS]
STORED_CASES = [
    (False, ONE_DEVICE),
    *(pytest.param(*step, marks=pytest.mark.slow) for step in STEPS),
]


def _teacher(mesh: mtf.Mesh, width: int = 24, **embedding: Any) -> DecoderOnly:
    """Returns a model of another width, without attention and with much dropout."""
    stack = functools.partial(
        Stack,
        num_layers=1,
        layers=[functools.partial(FeedForward, d_ff=32)],
        transforms=with_dropout(0.9),
    )
    table = TokenEmbedding(d_model=width, max_length=16, **embedding)
    model = DecoderOnly(mesh, VOCABULARY, embedding=table, stack=stack)
    mtf.initialize(model, seed=3)
    return model


def _student(
    mesh: mtf.Mesh, settings: DistillationLoss, teacher: TokenModel | None = None, **options: Any
) -> TokenModel:
    teacher = teacher or _teacher(mesh)
    model = small_model(mesh, num_layers=1, tied_softmax=False, **options)
    (width,) = teacher.embedding.table.shape - teacher.vocab
    distiller = Distiller(model, settings, width.size)
    distiller.teach(teacher)
    model.add_loss_term(distiller)
    mtf.initialize(model, seed=2)
    return model


def _log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_the_loss_is_the_one_of_the_papers(name: str) -> None:
    mesh, settings = mtf.Mesh(ONE_DEVICE, LAYOUT), SETTINGS[name]
    teacher = _teacher(mesh)
    student = _student(mesh, settings, teacher)
    rows = packed_rows()

    def run(features: dict[str, mtf.Tensor]) -> Any:
        models = (student, teacher)
        loss = student.loss(features, training=True, key=mtf.random_key(5))
        vectors = [model.hidden(features, SequenceCall()) for model in models]
        return loss, vectors, [model.logits(features) for model in models]

    loss, (x, y), logits = mtf.to_numpy(mtf.function(run)(on_mesh(mesh, rows)))
    weights = rows["targets"] > 0
    targets = np.take_along_axis(_log_softmax(logits[0]), rows["targets"][..., None], -1)
    cross_entropy = -targets[..., 0][weights].sum()
    log_q, log_p = (_log_softmax(z / settings.temperature) for z in logits)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)[weights].sum()
    assert divergence > 1.0
    share = settings.weight
    expected = (1 - share) * cross_entropy + share * settings.temperature**2 * divergence
    if settings.hidden_weight:
        (distiller,) = student.loss_terms
        assert isinstance(distiller, Distiller)
        projected = x @ mtf.to_numpy(distiller.projection)
        distance = ((projected - y) ** 2).mean(-1)
        if settings.hidden_distance == "cosine":
            norms = np.linalg.norm(projected, axis=-1) * np.linalg.norm(y, axis=-1)
            distance = 1 - (projected * y).sum(-1) / norms
        distance = distance[weights].sum()
        expected += settings.hidden_weight * distance
        assert_close(loss.metrics["hidden_distance"].total, distance, FLOAT32_MODEL_TOLERANCE)
    assert_close(loss.total, expected, FLOAT32_MODEL_TOLERANCE)
    assert_close(loss.metrics["distillation"].total, divergence, FLOAT32_MODEL_TOLERANCE)
    assert_close(loss.metrics["loss"].total, cross_entropy, FLOAT32_MODEL_TOLERANCE)
    assert set(loss.metrics) == set(student.metric_shapes)


@functools.cache
def _step(name: str, mesh_shape: str) -> Step:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    loss = TokenLoss(label_smoothing=0.1, z_loss=0.01)
    return training_step(_student(mesh, SETTINGS[name], loss=loss), mesh, packed_rows())


@pytest.fixture
def in_blocks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Blocks of 5 tokens for all logits; the arguments of every call."""
    calls = []

    def recorded(*args: Any, **kwargs: Any) -> list[mtf.Tensor]:
        calls.append(args)
        return layers.loss_in_blocks(*args, **kwargs)

    monkeypatch.setattr(token_softmax, "BLOCK_LOGITS", 1)
    monkeypatch.setattr(token_softmax, "LEAST_BLOCK_TOKENS", 5)
    monkeypatch.setattr(token_softmax, "loss_in_blocks", recorded)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("name, has_blocks, mesh_shape", CASES)
def test_neither_a_layout_nor_blocks_change_a_step(
    name: str, has_blocks: bool, mesh_shape: str, request: pytest.FixtureRequest
) -> None:
    expected = _step(name, ONE_DEVICE)
    calls = request.getfixturevalue("in_blocks") if has_blocks else ()
    assert_same_step(_step.__wrapped__(name, mesh_shape), expected)
    assert bool(calls) == has_blocks


def test_a_teacher_is_neither_trained_nor_saved() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    teacher = _teacher(mesh)
    before = mtf.to_numpy(teacher.named_variables())
    alone = small_model(mesh, num_layers=1, tied_softmax=False).named_variables()
    student = _student(mesh, SETTINGS["vectors"], teacher)
    state = TrainState(student, optim.Adam(learning_rate=0.1), mesh)
    state.initialize()
    saved = {path for path in state.named_variables() if path.startswith("model/")}
    assert saved == {f"model/{path}" for path in (*alone, "loss_terms/0/projection")}
    shape = [("steps", 1), ("batch", 8), ("length", 12)]
    features = {
        name: mtf.import_tf_tensor(mesh, x[np.newaxis].astype(np.int32), shape)
        for name, x in packed_rows().items()
    }
    one = mtf.constant(mesh, 1, dtype=tf.int32)
    train_steps_function(state, StepOptions(microbatches=2))(features, one)
    after = mtf.to_numpy(teacher.named_variables())
    assert all((after[path] == value).all() for path, value in before.items())
    # Evaluations and what uses the model read the student alone.
    student_metrics = student.loss(on_mesh(mesh, packed_rows()), training=False).metrics
    assert student_metrics.keys() == {"loss", "accuracy"}


def _with_likeliest(features: dict[str, np.ndarray], k: int, temperature: float) -> Any:
    """Returns the features with the likeliest ids of the teacher, as they are stored."""
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    logits = mtf.to_numpy(mtf.function(_teacher(mesh).logits)(on_mesh(mesh, features)))
    p = np.exp(_log_softmax(logits / temperature))
    ids = np.argsort(-p, axis=-1)[..., :k]
    parts = np.floor(np.take_along_axis(p, ids, -1) * PARTS_OF_1)
    return {TEACHER_IDS: ids, TEACHER_PROBABILITIES: parts}, p


def _stored_step(k: int, mesh_shape: str, **options: Any) -> tuple[Step, np.ndarray]:
    """Returns a step of a student of stored predictions, and the teacher's probabilities."""
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    student = small_model(mesh, num_layers=1, tied_softmax=False, **options)
    settings = SETTINGS["logits"]
    student.add_loss_term(Distiller(student, settings, is_stored=True))
    rows = packed_rows()
    stored, p = _with_likeliest(rows, k, settings.temperature)
    shape = [("batch", 8), ("length", 12), ("top_k", k)]
    tensors = {
        name: mtf.import_tf_tensor(mesh, np.asarray(x, np.int32), shape)
        for name, x in stored.items()
    }
    return training_step(student, mesh, rows, tensors), p


@pytest.mark.parametrize("has_blocks, mesh_shape", STORED_CASES)
def test_stored_ids_and_one_for_all_others_have_the_divergence(
    has_blocks: bool, mesh_shape: str, request: pytest.FixtureRequest
) -> None:
    k = 3
    one_device, p = _stored_step(k, ONE_DEVICE)
    calls = request.getfixturevalue("in_blocks") if has_blocks else ()
    step = _stored_step(k, mesh_shape)[0] if has_blocks or mesh_shape != ONE_DEVICE else one_device
    assert bool(calls) == has_blocks
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    student = small_model(mesh, num_layers=1, tied_softmax=False)
    rows, temperature = packed_rows(), SETTINGS["logits"].temperature
    logits = mtf.to_numpy(mtf.function(student.logits)(on_mesh(mesh, rows)))
    q = np.exp(_log_softmax(logits / temperature))
    ids = np.argsort(-p, axis=-1)[..., :k]
    p, q = (np.take_along_axis(x, ids, -1) for x in (p, q))
    p, q = (np.concatenate([x, 1 - x.sum(-1, keepdims=True)], -1) for x in (p, q))
    expected = (p * np.log(p / q)).sum(-1)[rows["targets"] > 0].sum()
    assert_close(step.loss.metrics["distillation"].total, expected, STORED_TOLERANCE)
    assert_same_step(step, one_device)


@pytest.mark.slow
def test_all_ids_stored_are_the_teacher_itself() -> None:
    expected = _step("logits", ONE_DEVICE).gradients
    loss = TokenLoss(label_smoothing=0.1, z_loss=0.01)
    actual = _stored_step(VOCABULARY, ONE_DEVICE, loss=loss)[0].gradients
    for path, gradient in expected.items():
        assert_close(actual[path], gradient, STORED_TOLERANCE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 0.0), ("weight", 1.1), ("hidden_weight", -1.0), ("hidden_distance", "l1")],
)
def test_settings_out_of_range_are_errors(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"DistillationLoss.{field} is {value!r}: it must be"):
        DistillationLoss(**{field: value})


def test_models_of_two_vocabularies_are_an_error() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    teacher = _teacher(mesh, vocabulary_divisor=64)
    with pytest.raises(InputError, match="have 64 entries and the student's 16"):
        _student(mesh, SETTINGS["logits"], teacher)


class _Uniform(TokenLossTerm):
    """A user's term: the divergence from a uniform distribution, and the squares of vectors."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        return {"squares": mtf.Shape(), "uniform": mtf.Shape()}

    def __call__(
        self, x: mtf.Tensor, features: Mapping[str, mtf.Tensor], weights: mtf.Tensor
    ) -> AddedLoss:
        squares = mtf.reduce_sum(mtf.square(mtf.to_float(x)) * weights)

        def divergence(logits: mtf.Tensor) -> mtf.Tensor:
            vocab = logits.shape.get_dim_by_name("vocab")
            return mtf.negative(mtf.reduce_mean(mtf.log_softmax(logits, vocab), reduced_dim=vocab))

        of_logits = LogitsLoss("uniform", divergence, (), self._share)
        metric = layers.Metric(squares, mtf.reduce_sum(weights))
        return AddedLoss(of_logits, squares * 0.1, {"squares": metric})


def test_a_term_of_a_user_stands_beside_a_teacher() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    student = _student(mesh, SETTINGS["logits"])
    student.add_loss_term(_Uniform(0.2))
    features = on_mesh(mesh, packed_rows())
    key = mtf.random_key(5)
    loss = mtf.to_numpy(mtf.function(lambda x: student.loss(x, training=True, key=key))(features))
    total = {name: metric.total for name, metric in loss.metrics.items()}
    share, factor = SETTINGS["logits"].weight, SETTINGS["logits"].temperature ** 2
    expected = (0.8 - share) * total["loss"] + share * factor * total["distillation"]
    expected += 0.2 * total["uniform"] + 0.1 * total["squares"]
    assert_close(loss.total, expected, FLOAT32_MODEL_TOLERANCE)
    assert set(loss.metrics) == set(student.metric_shapes)
