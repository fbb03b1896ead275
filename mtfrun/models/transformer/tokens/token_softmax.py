"""The output layer of a model of tokens: logits of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.layers import Call, Dense, Embedding, TokenLosses, dense, loss_in_blocks
from mtfrun.models.transformer.tokens.output_layer import OutputLayer, TokenLogits

# Kernels of at least this size are transposed for decoding, see `TokenSoftmax.for_steps`.
TRANSPOSED_FROM = 2**23

# The loss is computed in blocks of so many logits of a device, 64 MiB in float32: a step that
# computes more at once has three tensors of their size. Fewer matter little beside the 600 MB of a
# process.
BLOCK_LOGITS = 2**24
# But of no fewer tokens: the sum of the kernel's gradient is read and written once a block.
LEAST_BLOCK_TOKENS = 512


PROBABILITIES, LOGITS = "probabilities", "logits"


class TokenSoftmax(OutputLayer):
    """The logits of a vocabulary; padding is too unlikely to be predicted.

    The kernel is {d_model, vocab}, or the table of the embedding `tied`; if that is {vocab,
    d_embedding}, a "projection" maps vectors to d_embedding before the product. Entries of `vocab`
    from `num_classes` on are padding. `dtypes` are the product's too; logits are float32, with a
    "bias" {vocab} and limited as `logits` says.

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
        """Whether nothing but the projected x and the kernel has gradients, as in blocks."""
        return self.members is None and (self.bias is None or not self.bias.is_trained)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns the logits {..., vocab} of x {..., d_model}, float32.

        Of an ensemble's x {members, ..., d_model} each member's in training, otherwise their
        average.
        """
        logits = self._logits(x, call)
        return logits if self.members is None or call.training else self._of_ensemble(logits)

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
        """Returns sum(objective * weights), and the further values {tokens...} of `losses`.

        x: {tokens..., d_model}; targets and weights: {tokens...}. `losses` takes logits, targets
        and the tensors `by_token` {tokens..., ...}; large logits of a device are computed in
        blocks, see `layers.loss_in_blocks`. In the training of an ensemble the sum is over its
        members, so that each has the gradient of a single model, and further values are means.
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
            objective, *further = losses(self(x, call), targets, *by_token)
            return [mtf.reduce_sum(objective * weights), *further]
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
        """Returns the function of one position {batch..., d_model} for the steps of a decoder.

        A large kernel is transposed once, before the steps, and the logits are {vocab, batch...}:
        XLA on a CPU multiplies {vocab, d_model} by few rows faster than few rows by {d_model,
        vocab}. Measured on one core for 32,128 ids and d_model 512: 16 rows 16 to 4.5 ms, 64 rows
        13 to 12 ms. For 8,192 ids and 256 there is nothing to gain.
        """
        if self.kernel.shape.size < TRANSPOSED_FROM or self.members is not None:
            return lambda x: self(x, call)
        kernel = mtf.cast(self.kernel, self._activation)
        kernel = mtf.transpose(kernel, [self.vocab, self._columns])

        def logits(x: mtf.Tensor) -> mtf.Tensor:
            x = self._project(x, call)
            batch = x.shape - self._columns
            product = mtf.einsum([kernel, self._scale(x)], output_shape=[self.vocab, *batch])
            # Without the barrier XLA would transpose the factors back.
            return self._complete(mtf.optimization_barrier(product))

        return logits

    def _of_ensemble(self, logits: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., vocab}: the logarithms of mean probabilities, or mean logits."""
        assert self.members is not None
        if self.average == LOGITS:
            return mtf.reduce_mean(logits, reduced_dim=self.members)
        log_probs = mtf.log_softmax(logits, self.vocab)
        return mtf.reduce_logsumexp(log_probs, self.members) - math.log(self.members.size)

    def _project(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return x if self.projection is None else self.projection(x, call)

    def _scale(self, x: mtf.Tensor) -> mtf.Tensor:
        x = mtf.cast(x, self._activation)
        return x if self._tied is None else x * self._tied.logits_scale
