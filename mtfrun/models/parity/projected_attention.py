"""The base class of sublayers over `AttentionParameters`."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import KeysAndValues
from mtfrun.models.parity.attention_parameters import AttentionParameters
from mtfrun.models.transformer import SequenceCall, Sublayer


class ProjectedAttention(Sublayer):
    """Causal attention with a cache of another kind than the keys and values of all positions.

    It cannot be used in prefix language models, where a position attends to later ones.
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
        """Returns the dimension of the cache for the positions `memory_length`."""

    @abc.abstractmethod
    def _attend_once(
        self,
        x: mtf.Tensor,
        cache: KeysAndValues,
        position: mtf.Tensor,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the output at a position, and the keys and values of the cache with it.

        Rows where the condition does not hold keep their cache.
        """

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> KeysAndValues:
        """Returns an empty cache of keys and values."""
        heads, _, kv = self.parameters.wq.shape
        shape = [*batch, heads, self._cache_dimension(memory_length), kv]
        return KeysAndValues.zeros(self._mesh, shape, self._dtypes.activation)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, call: SequenceCall
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at one position and the cache with that position."""
        position, condition = call.progress.step_position(), call.progress.is_after_prompt()
        y, keys, values = self._attend_once(x, state, position, condition)
        return y, KeysAndValues(keys, values)

    def can_prefill(self, call: SequenceCall) -> bool:
        """Returns whether positions attend to earlier ones only."""
        return not call.bidirectional
