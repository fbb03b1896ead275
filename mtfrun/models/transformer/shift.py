"""Teacher forcing: what a decoder reads is what it should have said one position earlier."""

from __future__ import annotations

from mtfrun import mtf


def shift_right(
    targets: mtf.Tensor, length: mtf.Dimension, segments: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns the targets one position later; 0 at the start of the row and of every segment.

    Args:
      targets: {..., length} ids.
      length: the dimension.
      segments: {..., length} which packed document a position belongs to.
    """
    shifted = _shift(targets, length)
    if segments is None:
        return shifted
    same = mtf.equal(segments, _shift(segments, length))
    return mtf.where(same, shifted, 0)


def _shift(x: mtf.Tensor, length: mtf.Dimension) -> mtf.Tensor:
    # Under a name without a layout rule: what remains after the cut need not be divisible.
    x = mtf.rename_dimension(x, length.name, "shifted_length")
    x = mtf.slice(x, 0, length.size - 1, "shifted_length") if length.size > 1 else x * 0
    if length.size > 1:
        x = mtf.pad(x, [1, 0], "shifted_length")
    return mtf.rename_dimension(x, "shifted_length", length.name)
