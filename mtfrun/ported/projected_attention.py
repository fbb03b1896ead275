"""The base class of sublayers over `AttentionParameters`."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Context, KeysAndValues, Sublayer
from mtfrun.ported.attention_parameters import AttentionParameters


class ProjectedAttention(Sublayer):
    """Causal attention whose steps cache less than the keys and values of all positions.

    The ids of a prefix cannot attend to later ones of the prefix through it.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        *,
        num_heads: int,
        d_kv: int,
    ) -> None:
        """Makes the projections."""
        super().__init__()
        self._mesh = mesh
        self._dtypes = dtypes
        heads, kv = mtf.Dimension("heads", num_heads), mtf.Dimension("d_kv", d_kv)
        self.parameters = AttentionParameters(mesh, heads, d_model, kv, dtypes)

    @abc.abstractmethod
    def _cache_dimension(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        """Returns the cache's dimension for so many positions."""

    @abc.abstractmethod
    def _attend_once(
        self,
        x: mtf.Tensor,
        cache: KeysAndValues,
        position: mtf.Tensor,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the output at a position, and the cache's keys and values with it.

        The cache stays as it is in rows where the condition does not hold.
        """

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty cache of keys and values."""
        heads, _, kv = self.parameters.wq.shape
        shape = [*batch, heads, self._cache_dimension(memory_length), kv]
        zeros = mtf.zeros(self._mesh, shape, self._dtypes.activation)
        return KeysAndValues(zeros, zeros)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the cache with that position."""
        if context.position is None:
            raise InputError(f"a step of {type(self).__name__} needs context.position")
        y, keys, values = self._attend_once(x, state, context.position, context.is_new())
        return y, KeysAndValues(keys, values)

    def can_prefill(self, context: Context) -> bool:
        """Returns whether positions see earlier ones only."""
        return not context.bidirectional
