"""A language model small enough to train in a test: the next id from the last one, with dropout."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import Batch, Batches, Rows, Selection
from mtfrun.layers import Metric
from mtfrun.models.model import Loss, Model


class Bigram(Model):
    """Embedding, one hidden layer with dropout, softmax."""

    def __init__(self, mesh: mtf.Mesh, vocabulary_size: int = 16, d_model: int = 8):
        super().__init__()
        self.vocab = mtf.Dimension("vocab", vocabulary_size)
        self.d_model = mtf.Dimension("d_model", d_model)
        self.d_ff = mtf.Dimension("d_ff", 2 * d_model)
        kernel = mtf.VarianceScaling()
        self.embedding = mtf.Variable(
            mesh, [self.vocab, self.d_model], mtf.initializers.RandomNormal(1.0)
        )
        self.hidden = mtf.Variable(
            mesh, [self.d_model, self.d_ff], kernel([self.d_model], [self.d_ff])
        )
        self.softmax = mtf.Variable(
            mesh, [self.d_ff, self.vocab], kernel([self.d_ff], [self.vocab])
        )

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        targets = features["targets"]
        length = targets.shape.get_dim_by_name("length")
        inputs = mtf.pad(mtf.slice(targets, 0, length.size - 1, "length"), [1, 0], "length")
        x = mtf.gather(self.embedding, inputs, self.vocab)
        x = mtf.relu(mtf.einsum([x, self.hidden], reduced_dims=[self.d_model]))
        if training:
            assert key is not None
            x = mtf.dropout(x, True, rate=0.1, key=key.fold_in(self.path + "dropout"))
        logits = mtf.einsum([x, self.softmax], reduced_dims=[self.d_ff])
        nats = mtf.sparse_softmax_cross_entropy(logits, targets, self.vocab)
        weights = mtf.cast(mtf.not_equal(targets, 0), tf.float32)
        total, weight = mtf.reduce_sum(nats * weights), mtf.reduce_sum(weights)
        return Loss(total, weight, {"loss": Metric(total, weight)})


class OneVariable(Model):
    """The mean of the ids, for tests of what surrounds a step: it compiles sooner."""

    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.hidden = mtf.Variable(mesh, "d_ff:2", mtf.initializers.Constant(1.0))

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        targets = features["targets"]
        total = mtf.reduce_sum(mtf.square(0.1 * mtf.cast(targets, tf.float32) - self.hidden))
        weight = mtf.constant(targets.mesh, float(targets.shape.size))
        return Loss(total, weight, {"loss": Metric(total, weight)})


class Sequences(Rows):
    """Ids [rows, length]."""

    def __init__(self, ids: np.ndarray):
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def take(self, selection: Selection) -> Batch:
        return {"targets": self._ids[selection.rows]}


def batches(batch: int = 8, length: int = 6, vocabulary_size: int = 16) -> Batches:
    """Returns endless batches of ids of which mostly each is one more than the one before."""
    rng, count = np.random.default_rng(0), 64 * batch
    starts = rng.integers(1, vocabulary_size, (count, 1))
    noise = rng.integers(0, 2, (count, length))
    ids = (starts + np.arange(length) + noise) % (vocabulary_size - 1) + 1
    return Batches([Sequences(ids.astype(np.int32))], batch, seed=0)
