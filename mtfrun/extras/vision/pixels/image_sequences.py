"""Images as sequences: positions, and attention to the pixels around one."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, INDEX, Range, check_fields, check_range
from mtfrun.layers import AttentionBias, AttentionHeads, Call, ColumnMask, Embedding, Positions
from mtfrun.models.transformer.local_self_attention import LocalSelfAttention, ring_positions
from mtfrun.models.transformer.sublayer import SequenceCall


@dataclasses.dataclass(frozen=True)
class ImageSize:
    """The size of images whose values are a sequence: row by row, the channels of a pixel together.

    Attributes:
      channels: 1 for grey, 3 for colour.
    """

    rows: int
    cols: int
    channels: int = 1

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "rows", "cols", "channels")

    @property
    def row_length(self) -> int:
        return self.cols * self.channels

    def column(self, position: mtf.Tensor) -> mtf.Tensor:
        return (position % self.row_length) // self.channels


class ImagePositions(Positions):
    """The sum of trained vectors of a value's row, its column and its channel.

    Parmar et al. 2018, arXiv:1802.05751, section 3.1.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        max_length: int,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        image: ImageSize,
    ) -> None:
        super().__init__(max_length)
        positions = Range(1, image.rows * image.row_length, whole=True)
        check_range("max_length", max_length, positions)
        self._mesh, self._image = mesh, image
        sizes = {"rows": image.rows, "cols": image.cols, "channels": image.channels}
        self.rows, self.cols, self.channels = (
            Embedding(mesh, mtf.Dimension(name, size), d_model, dtypes)
            for name, size in sizes.items()
        )

    def __call__(self, positions: mtf.Tensor, call: Call) -> mtf.Tensor:
        row = positions // self._image.row_length
        channel = positions % self._image.channels
        return (
            self.rows(row, call)
            + self.cols(self._image.column(positions), call)
            + self.channels(channel, call)
        )

    def first(self, length: mtf.Dimension) -> mtf.Tensor:
        self.check_length(length)
        return self(mtf.range(self._mesh, length), Call())


class LocalImageAttention(LocalSelfAttention):
    """Self-attention of a pixel to those above it and to its left; Parmar et al. 2018, section 3.2.

    A value sees earlier ones, in the order of reading, of its own row and of `rows` rows above it,
    in `cols` columns on both sides. Sequences are computed in blocks, and steps cache as many
    values as a `LocalSelfAttention` whose window contains them.

    Args:
      rows: rows above a pixel that it sees.
      cols: columns on each side.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        image: ImageSize,
        rows: int = 2,
        cols: int = 4,
        heads: AttentionHeads = AttentionHeads(),
        dropout_rate: float = 0.0,
    ) -> None:
        for name, value in (("rows", rows), ("cols", cols)):
            check_range(f"LocalImageAttention.{name}", value, INDEX)
        super().__init__(
            mesh,
            d_model,
            dtypes,
            window=rows * image.row_length + (cols + 1) * image.channels,
            heads=heads,
            dropout_rate=dropout_rate,
        )
        self._image, self._cols = image, cols

    def _bias(self, x: mtf.Tensor, call: SequenceCall) -> AttentionBias:
        bias = super()._bias(x, call)
        positions = call.positions(x)
        memory_length = bias.dimension("memory_length")
        return bias.plus(self._near(positions, mtf.range(x.mesh, memory_length)))

    def _ring_bias(
        self, window: mtf.Dimension, position: mtf.Tensor, call: SequenceCall
    ) -> AttentionBias:
        bias = super()._ring_bias(window, position, call)
        return bias.plus(self._near(position, ring_positions(window, position)))

    def _near(self, positions: mtf.Tensor, memory: mtf.Tensor) -> ColumnMask:
        return ColumnMask(self._image.column(positions), self._image.column(memory), self._cols)
