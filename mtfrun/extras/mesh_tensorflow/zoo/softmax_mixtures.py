"""Mixtures of softmaxes: output layers with logits of a higher rank than d_model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors.checks import (
    COUNT,
    NOT_NEGATIVE,
    SHARE,
    SHARE_BELOW_1,
    check_fields,
    check_range,
)
from mtfrun.layers import Call, Dense, Dropout, Embedding
from mtfrun.models.transformer.tokens.token_softmax import TokenLogits, TokenSoftmax

# The leaves of a binary tree of three sigmoids.
_LEAVES = 4


class _Mixture(TokenSoftmax):
    """A softmax of several contexts tanh(map(x)) {..., components, columns} in place of x.

    Columns are d_model or d_embedding. As in Mesh TensorFlow, maps read x * columns ** -0.5 and are
    initialised with unit variance. The loss needs the logits of the whole batch at once.
    """

    is_product = False

    _components: mtf.Dimension
    contexts: Dense

    def _map_to(
        self, new_dims: Sequence[mtf.Dimension], dtypes: mtf.DTypePolicy, **options: Any
    ) -> Dense:
        scaling = mtf.VarianceScaling(float(self._columns.size))
        columns = [self._columns]
        return Dense(self._mesh, columns, new_dims, dtypes, kernel_initializer=scaling, **options)

    def for_steps(self, call: Call) -> Callable[[mtf.Tensor], mtf.Tensor]:
        return lambda x: self(x, call)

    def _input(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = mtf.cast(self._project(x, call), self._activation)
        return x * float(self._columns.size**-0.5)

    def _products(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., components, vocab} of x {..., columns}."""
        contexts = self.contexts(x, call)
        shape = [*(contexts.shape - self._columns), self.vocab]
        return mtf.einsum([contexts, mtf.cast(self.kernel, self._activation)], output_shape=shape)


class MixtureOfSoftmaxes(_Mixture):
    """The logarithm of a mixture of softmaxes; Yang et al. 2017, arXiv:1711.03953, section 2.2.

    Logits are log probabilities. Training needs `num_softmaxes` times the memory for logits.
    """

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
        num_softmaxes: int = 4,
    ) -> None:
        check_range("MixtureOfSoftmaxes.num_softmaxes", num_softmaxes, COUNT)
        super().__init__(mesh, num_classes, vocab, d_model, dtypes, tied=tied, logits=logits)
        self._components = mtf.Dimension("components", num_softmaxes)
        dims = [self._components, self._columns]
        self.contexts = self._map_to(dims, dtypes, use_bias=False, activation=mtf.tanh)
        self.mixture = self._map_to([self._components], dtypes, use_bias=False)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = self._input(x, call)
        shares = mtf.log_softmax(mtf.to_float(self.mixture(x, call)), self._components)
        logits = self._complete(self._products(x, call))
        logits = mtf.log_softmax(logits, self.vocab) + shares
        return mtf.reduce_logsumexp(logits, self._components)


@dataclasses.dataclass(frozen=True)
class MixtapeGates:
    """The gates of a `Mixtape`.

    Attributes:
      size: the size of a frequent id's gate vector.
      frequent_fraction: the fraction of ids with gate vectors, which come first in the vocabulary.
      dropout_rate: the dropout rate of products and gates, with one mask for all positions.
      noise: the standard deviation of the noise before the sigmoids in training.
    """

    size: int = 32
    frequent_fraction: float = 0.1
    dropout_rate: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "size")
        check_fields(self, SHARE, "frequent_fraction")
        check_fields(self, SHARE_BELOW_1, "dropout_rate")
        check_fields(self, NOT_NEGATIVE, "noise")


class Mixtape(_Mixture):
    """Mixes the logits of four contexts; Yang et al. 2019, "Mixtape", NeurIPS.

    https://papers.nips.cc/paper/9723-mixtape-breaking-the-softmax-bottleneck-efficiently.pdf. The
    mixing weights are the leaves of a tree of three sigmoids. The first ids, which are frequent in
    a sorted vocabulary, have separate weights; the rare ids share theirs.
    """

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
        gates: MixtapeGates = MixtapeGates(),
    ) -> None:
        super().__init__(mesh, num_classes, vocab, d_model, dtypes, tied=tied, logits=logits)
        self._components = mtf.Dimension("components", _LEAVES)
        dims = [self._components, self._columns]
        self.contexts = self._map_to(dims, dtypes, activation=mtf.tanh)
        self._noise = gates.noise
        self._sigmoids = mtf.Dimension("sigmoids", _LEAVES - 1)
        self._size = mtf.Dimension("gate_size", gates.size)
        # Not "vocab": a mesh axis may not divide it.
        number = int(gates.frequent_fraction * vocab.size)
        self._frequent = mtf.Dimension("frequent_vocab", number)
        self.gate = self._map_to([self._sigmoids, self._size], dtypes, activation=mtf.tanh)
        self.shared_gate = self._map_to([self._sigmoids], dtypes, use_bias=False)
        normal = mtf.initializers.RandomNormal(1.0)
        self.frequent_vectors, self.frequent_bias = (
            mtf.Variable(mesh, dims, normal, dtypes.master, reduced_dims=())
            for dims in ([self._frequent, self._size], [self._frequent, self._sigmoids])
        )
        self.product_dropout, self.gate_dropout = (
            Dropout(gates.dropout_rate, ("length",)) for _ in range(2)
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = self._input(x, call)
        products = mtf.to_float(self.product_dropout(self._products(x, call), call))
        gates = mtf.sigmoid(self._gates(x, call))
        first, second, third = mtf.unstack(gates, self._sigmoids)
        shares = [first * second, first * (1.0 - second)]
        shares += [(1.0 - first) * third, (1.0 - first) * (1.0 - third)]
        parts = mtf.unstack(products, self._components)
        return self._complete(mtf.add_n([p * s for p, s in zip(parts, shares, strict=True)]))

    def _gates(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns float32 {..., sigmoids, vocab}."""
        shared = mtf.to_float(self.shared_gate(x, call))
        vectors = self.gate_dropout(self.gate(x, call), call)
        shape = [*shared.shape, self._frequent]
        kernel = mtf.cast(self.frequent_vectors, vectors.dtype)
        frequent = mtf.to_float(mtf.einsum([vectors, kernel], output_shape=shape))
        frequent = frequent + mtf.to_float(self.frequent_bias)
        name, num_rare = self._frequent.name, self.vocab.size - self._frequent.size
        padded = mtf.pad(frequent, [0, num_rare], name)
        gates = mtf.rename_dimension(padded, name, self.vocab.name) + shared
        if call.training and self._noise:
            draws = mtf.random_normal(gates.mesh, gates.shape, key=call.key_of(self))
            gates = gates + draws * self._noise
        return gates
