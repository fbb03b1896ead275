"""The four projections of Mesh TensorFlow's attention layers."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf
from mtfrun.layers import KeysAndValues


class AttentionParams(NamedTuple):
    """The projections that the ported attention functions take; see `AttentionParameters`.

    Attributes:
      wq, wk, wv, wo: {heads, io_channels, kv_channels}, of queries, keys, values and outputs.
    """

    wq: mtf.Tensor
    wk: mtf.Tensor
    wv: mtf.Tensor
    wo: mtf.Tensor

    @property
    def heads(self) -> mtf.Dimension:
        """The dimension of the heads."""
        return self.wq.shape[0]

    @property
    def io_channels(self) -> mtf.Dimension:
        """The dimension of the inputs and outputs."""
        return self.wq.shape[1]

    @property
    def kv_channels(self) -> mtf.Dimension:
        """The dimension of the keys and values of one head."""
        return self.wq.shape[2]

    def query(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., heads, kv_channels} for x {..., io_channels}."""
        return mtf.einsum([x, self.wq], reduced_dims=[self.io_channels])

    def key(self, memory: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., heads, kv_channels} for memory {..., io_channels}."""
        return mtf.einsum([memory, self.wk], reduced_dims=[self.io_channels])

    def value(self, memory: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., heads, kv_channels} for memory {..., io_channels}."""
        return mtf.einsum([memory, self.wv], reduced_dims=[self.io_channels])

    def keys_and_values(self, memory: mtf.Tensor) -> KeysAndValues:
        """Returns {..., heads, length, kv_channels} each, for memory {..., length, io_channels}."""
        *batch, length, _ = memory.shape.dims
        shape = [*batch, self.heads, length, self.kv_channels]
        return KeysAndValues(
            mtf.transpose(self.key(memory), shape), mtf.transpose(self.value(memory), shape)
        )

    def output(self, mixed: mtf.Tensor, output_shape: mtf.ShapeLike) -> mtf.Tensor:
        """Returns `output_shape`, which has io_channels, for mixed {..., heads, kv_channels}."""
        return mtf.einsum([mixed, self.wo], output_shape=output_shape)


class AttentionParameters(mtf.Module):
    """The variables of `AttentionParams`, each {heads, io_channels, kv_channels}."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        heads: mtf.Dimension,
        io_channels: mtf.Dimension,
        kv_channels: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        """Makes the specs. The initial wq contains the factor kv_channels ** -0.5 of the logits."""
        super().__init__()
        self._dtypes = dtypes
        shape = [heads, io_channels, kv_channels]
        fan_in = mtf.VarianceScaling()([io_channels], [])
        # Squared, because it scales a variance.
        query_init = mtf.VarianceScaling(scale=1.0 / kv_channels.size)([io_channels], [])
        output_init = mtf.VarianceScaling()([heads, kv_channels], [])

        def projection(initializer: mtf.Initializer) -> mtf.Variable:
            merged = [heads, kv_channels]
            return mtf.Variable(mesh, shape, initializer, dtypes.master, merged_dims=merged)

        self.wq = projection(query_init)
        self.wk = projection(fan_in)
        self.wv = projection(fan_in)
        self.wo = projection(output_init)

    def projections(self) -> AttentionParams:
        """Returns the projections in the activation type."""
        dtype = self._dtypes.activation
        return AttentionParams(*(mtf.cast(w, dtype) for w in (self.wq, self.wk, self.wv, self.wo)))
