"""What the output layers of models of tokens have in common: logits of a vocabulary, and losses."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.layers import MASKED, Call, TokenLosses, soft_cap


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLogits:
    """How a model of tokens turns vectors into logits.

    Attributes:
      tied_softmax: the embedding's table is also the kernel of the softmax.
      scaled_softmax: a tied softmax has the factor d_model ** -0.5, for a table of unit variance;
        d_embedding ** -0.5 where the table has these columns.
      masks_padding: the logits beyond the last id are too low to be predicted and do not contribute
        to the loss. False: they are ids like any other, as in Mesh TensorFlow and T5, whose
        softmax is over all rows of its table.
      softmax_bias: every id has a bias.
      trains_softmax_bias: False where it is part of a model that was made elsewhere, and constant.
      logits_cap: logits are limited by `layers.soft_cap`; None for no limit.
    """

    tied_softmax: bool = True
    scaled_softmax: bool = True
    masks_padding: bool = True
    softmax_bias: bool = False
    trains_softmax_bias: bool = True
    logits_cap: float | None = None


class OutputLayer(mtf.Module, abc.ABC):
    """Float32 logits of a vocabulary, of which entries from `num_classes` on are padding.

    They have a "bias" {vocab} and a limit as `logits` says.

    Attributes:
      members: the dimension of an ensemble, see `make_ensemble`; None for one model.
    """

    bias: mtf.Variable | None = None
    members: mtf.Dimension | None = None

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        vocab: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        logits: TokenLogits,
    ) -> None:
        super().__init__()
        self._mesh = mesh
        self.num_classes = num_classes
        self.vocab = vocab
        self._activation = dtypes.activation
        self._cap = logits.logits_cap

    @abc.abstractmethod
    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {..., vocab} of x {..., d_model}, float32."""

    def loss(
        self,
        x: mtf.Tensor,
        targets: mtf.Tensor,
        weights: mtf.Tensor,
        losses: TokenLosses,
        call: Call,
        by_token: Sequence[mtf.Tensor] = (),
    ) -> list[mtf.Tensor]:
        """Returns sum(objective * weights), and the further values {tokens...} of `losses`.

        x: {tokens..., d_model}; targets and weights: {tokens...}. `losses` takes logits, targets
        and the tensors `by_token` {tokens..., ...}.
        """
        objective, *further = losses(self(x, call), targets, *by_token)
        return [mtf.reduce_sum(objective * weights), *further]

    def for_steps(self, call: Call) -> Callable[[mtf.Tensor], mtf.Tensor]:
        """Returns the function of one position {batch..., d_model} for the steps of a decoder."""
        return lambda x: self(x, call)

    def _add_bias(self, logits: TokenLogits, dtypes: mtf.DTypePolicy) -> None:
        if logits.softmax_bias:
            self.bias = mtf.Variable(
                self._mesh,
                [self.vocab],
                dtype=dtypes.master,
                trainable=logits.trains_softmax_bias,
                reduced_dims=(),
            )

    def _complete(self, product: mtf.Tensor) -> mtf.Tensor:
        """Returns the float32 logits of the product of vectors and kernel."""
        logits = mtf.to_float(product)
        if self.bias is not None:
            logits = logits + mtf.to_float(self.bias)
        return mask_padding(self._limit(logits), self.vocab, self.num_classes)

    def _limit(self, logits: mtf.Tensor) -> mtf.Tensor:
        return logits if self._cap is None else soft_cap(logits, self._cap)


def mask_padding(logits: mtf.Tensor, vocab: mtf.Dimension, num_classes: int) -> mtf.Tensor:
    """Returns logits {..., vocab} that are too low to be predicted from `num_classes` on."""
    if vocab.size <= num_classes:
        return logits
    is_padding = np.arange(vocab.size) >= num_classes
    return logits + mtf.constant(logits.mesh, np.where(is_padding, MASKED, 0.0), [vocab])
