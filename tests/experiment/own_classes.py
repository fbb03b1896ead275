"""A user's own text model, data, measurement and inference, outside the package."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import data, decoding, experiment, models, mtf


class PairsOfIds(models.TextModel):
    """Predicts each id from the preceding one, by a table of logits."""

    optional_features = ()

    def __init__(self, mesh: mtf.Mesh, vocabulary_size: int) -> None:
        super().__init__()
        self.vocab = mtf.Dimension("vocab", vocabulary_size)
        self._previous = mtf.Dimension("previous", vocabulary_size)
        self.table = mtf.Variable(mesh, [self._previous, self.vocab])

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        targets = features["targets"]
        length = targets.shape.get_dim_by_name("length")
        return self._after(mtf.shift(targets, 1, length, wrap=False))

    def target_weights(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        return mtf.to_float(mtf.not_equal(features["targets"], 0))

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> models.Loss:
        logits, weights = self.logits(features), self.target_weights(features)
        nats = mtf.sparse_softmax_cross_entropy(logits, features["targets"], self.vocab)
        total, weight = mtf.reduce_sum(nats * weights), mtf.reduce_sum(weights)
        return models.Loss(total, weight, {"loss": models.Metric(total, weight)})

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> decoding.Decoder:
        return decoding.Decoder(lambda ids, position, state: (self._after(ids), state), ())

    def _after(self, ids: mtf.Tensor) -> mtf.Tensor:
        return mtf.gather(self.table, ids, self._previous)


@dataclasses.dataclass(frozen=True)
class Counting(data.TextData):
    """The numbers from 0 to 99, one per row."""

    vocabulary: data.Vocabulary
    length: int = 4

    @property
    def features(self) -> dict[str, data.Feature]:
        return {"targets": data.ids_feature(self.length, "digits and the end")}

    @property
    def tokens_per_row(self) -> int:
        return self.length

    def train(self, batch: int, *, seed: int) -> tf.data.Dataset:
        epochs = data.endless(lambda seed: data.shuffled(self._rows(), 100, seed), seed=seed)
        return data.ahead(epochs.batch(batch, drop_remainder=True))

    def evaluation(self, batch: int, *, split: str) -> tf.data.Dataset:
        return data.filled(self._rows().batch(batch), batch)

    def _rows(self) -> tf.data.Dataset:
        encode, end = self.vocabulary.encode, self.vocabulary.end_id
        rows = [np.append(encode(str(number)), end) for number in range(100)]
        return tf.data.Dataset.from_tensor_slices({"targets": data.padded(rows, 100, self.length)})


@dataclasses.dataclass(frozen=True)
class Digits(experiment.Measurement):
    """The share of outputs that consist of digits."""

    prompts: Sequence[str] = ("1", "2")

    def __call__(self, evaluated: experiment.Evaluated) -> experiment.Measured:
        prompts = [prompt.encode() for prompt in self.prompts]
        records = self.experiment.inference.records(prompts, evaluated.progress)
        correct = [set(record.texts[0]) <= set("0123456789") for record in records]
        return experiment.Measured(metrics={"digits": sum(correct) / len(correct)})


class Lengths(experiment.Inference):
    """Returns the lengths of texts."""

    def read(self, source: experiment.Source) -> Sequence[bytes]:
        return source.texts()

    def records(
        self, inputs: Sequence[bytes], progress: experiment.Progress | None = None
    ) -> list[experiment.Record]:
        return [experiment.Record({"length": len(text)}, [str(len(text))]) for text in inputs]
