"""An encoder that predicts a number for a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtfrun import layers, mtf
from mtfrun.decoding import FORBIDDEN, Decoder
from mtfrun.extras.text_tasks.answering_encoder import AnsweringEncoder
from mtfrun.layers import Collector, Metric
from mtfrun.models.model import Features, Loss
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding

# What pads the numbers: farther from a prediction than any of them.
_NO_NUMBER = 1e9


class TextRegressor(AnsweringEncoder):
    """Predicts a number at the first position; Devlin et al. 2018, section 4.1, for STS-B of GLUE.

    Features: "inputs" {batch, length} int32 and "inputs_types" as of `EncoderOnly`, and "targets"
    {batch, length} int32: the first one of a row is the id of a number, all others are -1. The
    first logit {batch, length, vocab} of the first position is the prediction.

    Args:
      numbers: [ids] the number of each id.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        numbers: np.ndarray,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        head: Sequence[TransformClass] = (),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        num_types: int = 0,
    ) -> None:
        super().__init__(
            mesh, vocabulary_size, 1, len(numbers), embedding, stack, head, dtypes, num_types
        )
        self._numbers = np.full([self.vocab.size], _NO_NUMBER, np.float32)
        self._numbers[: len(numbers)] = numbers

    @property
    def metric_shapes(self) -> dict[str, mtf.Shape]:
        return {"loss": mtf.Shape(), **layers.metric_shapes(self)}

    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the sum over rows of the squared error; rows without a target have no loss."""
        collector = Collector()
        prediction = self._prediction(features, SequenceCall(training, key, collector))
        targets = features["targets"]
        ids = mtf.gather(targets, 0, targets.shape.get_dim_by_name("length"))
        weights = mtf.to_float(mtf.greater_equal(ids, 0))
        error = prediction - mtf.gather(self._of_ids, mtf.maximum(ids, 0), self.vocab)
        total, weight = mtf.reduce_sum(error * error * weights), mtf.reduce_sum(weights)
        return Loss(total, weight, {"loss": Metric(total, weight)}).with_collected(collector)

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the number that is nearest to the prediction, with probability 1."""
        self._check_beam(beam)
        error = self._prediction(features) - self._of_ids
        nearest = mtf.argmax(mtf.negative(error * error), self.vocab)

        def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            del ids, position
            return (1.0 - mtf.one_hot(nearest, self.vocab)) * FORBIDDEN, state

        return Decoder(step, initial_state=())

    @property
    def _of_ids(self) -> mtf.Tensor:
        return mtf.constant(self._mesh, self._numbers, [self.vocab])

    def _prediction(self, features: Features, call: SequenceCall = SequenceCall()) -> mtf.Tensor:
        """Returns {batch} float32."""
        return mtf.gather(self._first_logits(features, call), 0, self._labels)
