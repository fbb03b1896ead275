"""An encoder that predicts a number for a text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from mtfrun import layers, mtf
from mtfrun.decoding import FORBIDDEN, Decoder
from mtfrun.errors import InputError
from mtfrun.layers import Collector, Metric
from mtfrun.models.model import Features, Loss, Reporting
from mtfrun.models.transformer.encoder_only import EncoderOnly
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.token_embedding import TokenEmbedding

# What pads the numbers: farther from a prediction than any of them.
_NO_NUMBER = 1e9


class TextRegressor(EncoderOnly):
    """Predicts a number at the first position; Devlin et al. 2018, section 4.1, for STS-B of GLUE.

    Features: "inputs" {batch, length} int32 and "inputs_types" as of `EncoderOnly`, and "targets"
    {batch, length} int32: the first one of a row is the id of a number, all others are -1. The
    first logit {batch, length, vocab} of the first position is the prediction.

    Args:
      numbers: [ids] the number of each id.
    """

    reporting: ClassVar[Reporting] = Reporting("texts", "texts", ("loss",), with_perplexity=False)
    optional_features: ClassVar[Collection[str]] = ("inputs_types",)

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
            *(mesh, vocabulary_size),
            embedding=embedding,
            stack=stack,
            head=head,
            dtypes=dtypes,
            num_types=num_types,
            num_labels=1,
        )
        # A decoder's outputs are ids of numbers, unlike the logits.
        self._labels, self.vocab = self.vocab, embedding.vocab(len(numbers))
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

    def target_nats(self, features: Features) -> mtf.Tensor:
        raise InputError(
            "TextRegressor scores no targets: its numbers have no probability: `mtfrun decode` "
            "prints them, and `mtfrun eval` compares them with the targets of a split"
        )

    def learn_from(self, settings: Any, teacher_width: int | None = None) -> Any:
        raise InputError("TextRegressor is no student: distil a model with logits of ids")

    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns a decoder of the number that is nearest to the prediction, with probability 1."""
        if beam is not None:
            raise InputError("TextRegressor has one number: leave the beam size and outputs out")
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
        logits = self.logits(features, call)
        first = mtf.gather(logits, 0, logits.shape.get_dim_by_name("length"))
        return mtf.gather(first, 0, self._labels)
