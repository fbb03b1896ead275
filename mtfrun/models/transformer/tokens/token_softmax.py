"""The output layer of a model of tokens: logits of the vocabulary, and their losses."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.layers import (
    MASKED,
    Call,
    Dense,
    Embedding,
    TokenLosses,
    dense,
    loss_in_blocks,
    soft_cap,
)

# Kernels of at least this size are transposed for decoding, see `TokenSoftmax.for_steps`.
TRANSPOSED_FROM = 2**23

# The loss is computed in blocks of so many logits of a device, 64 MiB in float32: a step that
# computes more at once has three tensors of their size. Fewer matter little beside the 600 MB of a
# process.
BLOCK_LOGITS = 2**24
# But of no fewer tokens: the sum of the kernel's gradient is read and written once a block.
LEAST_BLOCK_TOKENS = 512

PROBABILITIES, LOGITS = "probabilities", "logits"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenLogits:
    """The settings of a model of tokens for its logits.

    Attributes:
      tied_softmax: the embedding's table is also the kernel of the softmax.
      scaled_softmax: a tied softmax has the factor d_model ** -0.5, for a table of unit variance;
        d_embedding ** -0.5 where the table has these columns.
      masks_padding: the logits beyond the last id are too low to be predicted and do not contribute
        to the loss. False: they are ids like any other, as in Mesh TensorFlow and T5.
      softmax_bias: every id has a bias.
      trains_softmax_bias: False for the constant bias of an imported model.
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
      members: the dimension of an ensemble, see `zoo.make_ensemble`; None for one model.
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
        logits = mtf.to_float(product)
        if self.bias is not None:
            logits = logits + mtf.to_float(self.bias)
        return mask_padding(self._limit(logits), self.vocab, self.num_classes)

    def _limit(self, logits: mtf.Tensor) -> mtf.Tensor:
        return logits if self._cap is None else soft_cap(logits, self._cap)


class TokenSoftmax(OutputLayer):
    """The product of vectors with a kernel {d_model, vocab}, or with the table of `tied`.

    If that is {vocab, d_embedding}, a "projection" maps vectors to d_embedding before the product.
    `dtypes` are the product's too.

    Attributes:
      average: PROBABILITIES or LOGITS: their mean over the members is used outside of training.
    """

    average: str = PROBABILITIES

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        vocab: mtf.Dimension,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        tied: Embedding | None = None,
        logits: TokenLogits = TokenLogits(),
    ) -> None:
        super().__init__(mesh, num_classes, vocab, dtypes, logits)
        self._columns, self._tied = d_model, tied
        self.projection = None
        if tied is not None:
            self.kernel, self._columns = tied.table, tied.columns
            if tied.projection is not None:
                self.projection = Dense(mesh, [d_model], [tied.columns], dtypes, use_bias=False)
        else:
            initial = mtf.VarianceScaling()([d_model], [vocab])
            self.kernel = mtf.Variable(mesh, [d_model, vocab], initial, dtypes.master)
        outer = self.kernel.shape - [vocab, self._columns]
        self.members = outer[0] if outer.ndims else None
        self._add_bias(logits, dtypes)

    @property
    def is_product(self) -> bool:
        """Whether only the projected x and the kernel have gradients, as in blocks."""
        return self.members is None and (self.bias is None or not self.bias.is_trained)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {..., vocab} of x {..., d_model}, float32.

        Of an ensemble's x {members, ..., d_model} each member's in training, otherwise their
        average.
        """
        logits = self._logits(x, call)
        if self.members is None or call.training:
            return logits
        if self.average == LOGITS:
            return mtf.reduce_mean(logits, reduced_dim=self.members)
        log_probs = mtf.log_softmax(logits, self.vocab)
        return mtf.reduce_logsumexp(log_probs, self.members) - math.log(self.members.size)

    def _logits(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = self._project(x, call)
        if self._tied is not None:
            return self._complete(self._tied.logits(x))
        x, kernel = mtf.cast(x, self._activation), mtf.cast(self.kernel, self._activation)
        return self._complete(dense(x, kernel, reduced_dims=[self._columns], new_dims=[self.vocab]))

    def loss(
        self,
        x: mtf.Tensor,
        targets: mtf.Tensor,
        weights: mtf.Tensor,
        losses: TokenLosses,
        call: Call,
        by_token: Sequence[mtf.Tensor] = (),
    ) -> list[mtf.Tensor]:
        """See `OutputLayer`; large logits are computed in blocks, see `layers.loss_in_blocks`.

        In the training of an ensemble the sum is over its members, so that each has the gradient of
        a single model, and further values are means.
        """
        if self.members is not None and call.training:
            shape = [self.members, *targets.shape]
            objective, *further = losses(self(x, call), mtf.broadcast(targets, shape), *by_token)
            means = [mtf.reduce_mean(value, reduced_dim=self.members) for value in further]
            return [mtf.reduce_sum(objective * weights), *means]
        num_tokens = math.prod(self._mesh.local_sizes(targets.shape))
        (num_ids,) = self._mesh.local_sizes([self.vocab])
        block_tokens = max(LEAST_BLOCK_TOKENS, BLOCK_LOGITS // num_ids)
        if num_tokens <= block_tokens or not self.is_product:
            return super().loss(x, targets, weights, losses, call, by_token)
        return loss_in_blocks(
            self._scale(self._project(x, call)),
            self.kernel,
            targets,
            weights,
            lambda product, *labels: losses(self._complete(product), *labels),
            training=call.training,
            block_tokens=block_tokens,
            by_token=by_token,
        )

    def for_steps(self, call: Call) -> Callable[[mtf.Tensor], mtf.Tensor]:
        """See `OutputLayer`.

        A large kernel is transposed once, before the steps, and the logits are {vocab, batch...}:
        XLA on a CPU multiplies {vocab, d_model} by few rows faster than few rows by {d_model,
        vocab}. Measured on one core for 32,128 ids and d_model 512: 16 rows 16 to 4.5 ms, 64 rows
        13 to 12 ms. 8,192 ids and d_model 256 gain no time.
        """
        if self.kernel.shape.size < TRANSPOSED_FROM or self.members is not None:
            return super().for_steps(call)
        kernel = mtf.cast(self.kernel, self._activation)
        kernel = mtf.transpose(kernel, [self.vocab, self._columns])

        def logits(x: mtf.Tensor) -> mtf.Tensor:
            x = self._project(x, call)
            batch = x.shape - self._columns
            product = mtf.einsum([kernel, self._scale(x)], output_shape=[self.vocab, *batch])
            # Without the barrier XLA would transpose the factors back.
            return self._complete(mtf.optimization_barrier(product))

        return logits

    def _project(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return x if self.projection is None else self.projection(x, call)

    def _scale(self, x: mtf.Tensor) -> mtf.Tensor:
        x = mtf.cast(x, self._activation)
        return x if self._tied is None else x * self._tied.logits_scale


def mask_padding(logits: mtf.Tensor, vocab: mtf.Dimension, num_classes: int) -> mtf.Tensor:
    """Returns logits {..., vocab} that are too low to be predicted from `num_classes` on."""
    if vocab.size <= num_classes:
        return logits
    is_padding = np.arange(vocab.size) >= num_classes
    return logits + mtf.constant(logits.mesh, np.where(is_padding, MASKED, 0.0), [vocab])
