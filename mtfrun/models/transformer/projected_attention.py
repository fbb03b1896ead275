"""What the sublayers over Mesh TensorFlow's attention functions share."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from mtfrun import mtf
from mtfrun.layers import AttentionParameters, Context, KeysAndValues, Sublayer


class ProjectedAttention(Sublayer):
    """Causal attention with `AttentionParameters`, whose steps do not have a memory of all
    positions.

    The ids of a prefix cannot see each other through it.
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
    def _remembered(self, memory_length: mtf.Dimension) -> mtf.Dimension:
        """Returns the dimension of the memory of so many positions."""

    @abc.abstractmethod
    def _attend_once(
        self,
        x: mtf.Tensor,
        memory: KeysAndValues,
        position: mtf.Tensor,
        condition: mtf.Tensor | None,
    ) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        """Returns the output at a position, and the memory's keys and values with it.

        The memory stays as it is in rows where the condition does not hold.
        """

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> KeysAndValues:
        """Returns an empty memory."""
        heads, _, kv = self.parameters.wq.shape
        shape = [*batch, heads, self._remembered(memory_length), kv]
        zeros = mtf.zeros(self._mesh, shape, self._dtypes.activation)
        return KeysAndValues(zeros, zeros)

    def step(
        self, x: mtf.Tensor, state: KeysAndValues, context: Context
    ) -> tuple[mtf.Tensor, KeysAndValues]:
        """Returns the output at `context.position` and the memory with that position."""
        if context.position is None:
            raise ValueError(f"a step of {type(self).__name__} needs context.position")
        y, keys, values = self._attend_once(x, state, context.position, context.is_new())
        return y, KeysAndValues(keys, values)

    def can_prefill(self, context: Context) -> bool:
        """Returns whether positions see earlier ones only."""
        return not context.bidirectional
