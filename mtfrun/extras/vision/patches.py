"""Images as grids of patches."""

from __future__ import annotations

from mtfrun import mtf


def patch_dims(size: int) -> list[mtf.Dimension]:
    return [mtf.Dimension(name, size) for name in ("patch_row", "patch_col")]


def cut_into_patches(x: mtf.Tensor, size: int) -> mtf.Tensor:
    """Returns {..., rows / size, cols / size, patch_row, patch_col, channels} for images x.

    x: {..., rows, cols, channels}; `size` divides rows and cols. A `Dense` layer over the last
    three dimensions is a convolution whose stride is the filter's size.
    """
    *leading, rows, cols, channels = x.shape.dims
    inside = patch_dims(size)
    across = [mtf.Dimension(dim.name, dim.size // size) for dim in (rows, cols)]
    x = mtf.reshape(x, [*leading, across[0], inside[0], across[1], inside[1], channels])
    return mtf.transpose(x, [*leading, *across, *inside, channels])
