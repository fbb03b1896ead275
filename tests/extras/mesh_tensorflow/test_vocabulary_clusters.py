"""Clusters of a vocabulary: their vectors and probabilities by numpy, and models of them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.layers import Call
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    assert_same_step,
    logits_step_by_step,
    on_mesh,
    packed_rows,
    small_model,
    training_step,
)

CUTOFFS, SIZES, D_MODEL = [4, 8], [16, 6, 4], 16
KINDS = {
    "one softmax": zoo.VocabularyClusters(CUTOFFS, SIZES),
    "adaptive": zoo.VocabularyClusters(CUTOFFS, SIZES, adaptive_softmax=True),
    "one cluster": zoo.VocabularyClusters([], [6]),
}


def _model(mesh: mtf.Mesh, kind: str, **embedding: Any) -> t.DecoderOnly:
    softmax = functools.partial(zoo.ClusterSoftmax, tail_z_loss=0.1)
    settings: dict[str, Any] = {"max_length": 16, "vocabulary_divisor": 8, "softmax": softmax}
    table = functools.partial(zoo.AdaptiveEmbedding, clusters=KINDS[kind])
    clusters = t.TokenEmbedding(D_MODEL, table=table, **settings | embedding)
    return small_model(mesh, num_layers=1, embedding=clusters, loss=t.TokenLoss(z_loss=0.1))


def _vectors(model: t.TokenModel) -> list[np.ndarray]:
    """Returns the vectors [rows, d_model] of every table."""
    values = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    vectors = []
    for number in range(sum(path.endswith("/table") for path in values) - 1):
        path = f"embedding/clusters/{number}"
        vectors.append(values[f"{path}/table"])
        if f"{path}/projection/kernel" in values:
            vectors[-1] = vectors[-1] @ values[f"{path}/projection/kernel"]
    return vectors


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def _log_probabilities(vectors: list[np.ndarray], x: np.ndarray, kind: str) -> np.ndarray:
    """Returns them for all ids, of x [tokens, d_model]."""
    products = [x @ table.T * D_MODEL**-0.5 for table in vectors]
    if kind != "adaptive":
        return _log_softmax(np.concatenate(products, -1))
    first = _log_softmax(products[0])
    number = len(first[0]) - len(CUTOFFS)
    tails = [
        _log_softmax(product) + first[:, [number + i]] for i, product in enumerate(products[1:])
    ]
    return np.concatenate([first[:, :number], *tails], -1)


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_and_probabilities_are_those_of_the_tables(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, kind)
    rng = np.random.default_rng(0)
    vectors, x = _vectors(model), rng.normal(size=[5, D_MODEL]).astype(np.float32)
    tokens, width = mtf.Dimension("length", 5), mtf.Dimension("d_model", D_MODEL)
    logits = mtf.to_numpy(model.softmax(mtf.import_tf_tensor(mesh, x, [tokens, width]), Call()))
    expected = _log_probabilities(vectors, x, kind)
    assert_close(_log_softmax(logits), expected, FLOAT32_OP_TOLERANCE)
    ids = mtf.range(mesh, mtf.Dimension("length", VOCABULARY + 2))
    of_ids = mtf.to_numpy(model.embedding(ids - 1, Call()))
    first = vectors[0][: CUTOFFS[0]] if kind == "adaptive" else vectors[0]
    nothing = np.zeros([1, D_MODEL])
    assert_close(of_ids, np.concatenate([nothing, first, *vectors[1:], nothing]))


def test_padding_is_in_no_cluster_and_leaves_the_probabilities_alone() -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", D_MODEL)
    vocab = mtf.Dimension("vocab", VOCABULARY)
    table = zoo.AdaptiveEmbedding(mesh, vocab, width, clusters=KINDS["adaptive"])
    softmax = zoo.ClusterSoftmax(mesh, 13, vocab, width, tied=table)
    mtf.initialize([table, softmax])
    x = np.random.default_rng(0).normal(size=[5, D_MODEL]).astype(np.float32)
    length = mtf.Dimension("length", 5)
    logits = mtf.to_numpy(softmax(mtf.import_tf_tensor(mesh, x, [length, width]), Call()))
    first = _log_softmax(x @ mtf.to_numpy(table.clusters[0].table).T * D_MODEL**-0.5)
    assert np.all(logits[:, 13:] < -1e6)
    shares = np.exp(_log_softmax(logits))[:, CUTOFFS[1] :].sum(-1)
    assert_close(shares, np.exp(first[:, -1]), FLOAT32_OP_TOLERANCE)


def test_the_z_loss_is_of_the_softmaxes_of_a_target() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model, rows = _model(mesh, "adaptive"), packed_rows()

    def run(features: dict[str, mtf.Tensor]) -> Any:
        x = model.hidden(features, t.SequenceCall())
        training = model.loss(features, training=True, key=mtf.random_key(0))
        return x, training.total, model.loss(features, training=False).total

    x, training, evaluation = mtf.to_numpy(mtf.function(run)(on_mesh(mesh, rows)))
    products = [x @ table.T * D_MODEL**-0.5 for table in _vectors(model)]
    squares = [np.square(np.log(np.exp(product).sum(-1))) for product in products]
    cluster = np.digitize(rows["targets"], CUTOFFS)
    z = squares[0] + np.where(cluster > 0, np.choose(cluster, squares), 0.0)
    expected = evaluation + 0.1 * z[rows["targets"] > 0].sum()
    assert_close(training, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_layout_changes_neither_loss_nor_gradients(kind: str) -> None:
    split, whole = (
        training_step(_model(mesh, kind), mesh, packed_rows())
        for mesh in (mtf.Mesh("data:2,model:2", LAYOUT), mtf.Mesh(ONE_DEVICE))
    )
    assert_same_step(split, whole)


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_steps_of_decoding_give_the_logits_of_whole_rows(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = _model(mesh, "adaptive")
    targets = np.random.default_rng(1).integers(1, VOCABULARY, [8, 12]).astype(np.int32)
    whole = mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, {"targets": targets})))
    one_by_one = logits_step_by_step(model, mesh, {}, targets)
    assert_close(one_by_one, whole, FLOAT32_MODEL_TOLERANCE)


def test_a_separate_softmax_has_a_kernel() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, "one softmax", tied_softmax=False, softmax=t.TokenSoftmax)
    assert model.vocabulary_sizes == {"softmax/kernel": VOCABULARY}
    assert "embedding/clusters/2/table" in model.named_variables()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cutoffs": [4, 4]}, "increasing order"),
        ({"cutoffs": [4]}, "needs 2 sizes"),
        ({"cutoffs": [], "d_embedding": [4], "adaptive_softmax": True}, "needs cutoffs"),
        ({"d_embedding": [16, 0, 4]}, "at least 1"),
    ],
)
def test_settings_of_clusters_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        zoo.VocabularyClusters(**{"cutoffs": CUTOFFS, "d_embedding": SIZES, **settings})


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"softmax": t.TokenSoftmax}, r"has several tables: set TokenEmbedding\.softmax"),
        ({"tied_softmax": False}, r"needs TokenEmbedding\.table=.* and tied_softmax=True"),
        ({"softmax_bias": True}, "no biases"),
        ({"scaled_softmax": False}, "not supported for clusters"),
        ({"d_embedding": 4}, "is for one table"),
    ],
)
def test_models_that_clusters_do_not_fit_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        _model(mtf.Mesh(ONE_DEVICE), "adaptive", **settings)


def test_the_vocabulary_has_ids_in_every_cluster() -> None:
    mesh, width = mtf.Mesh(ONE_DEVICE), mtf.Dimension("d_model", D_MODEL)
    with pytest.raises(InputError, match="must be below 8"):
        zoo.AdaptiveEmbedding(mesh, mtf.Dimension("vocab", 8), width, clusters=KINDS["adaptive"])
    vocab = mtf.Dimension("vocab", VOCABULARY)
    table = zoo.AdaptiveEmbedding(mesh, vocab, width, clusters=KINDS["adaptive"])
    with pytest.raises(InputError, match="below 8, the size"):
        zoo.ClusterSoftmax(mesh, 8, vocab, width, tied=table)
