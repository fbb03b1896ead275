"""Residual blocks: convolutions with a shortcut around them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.layers import BatchNorm, Call, Conv2D


@dataclasses.dataclass(frozen=True)
class Blocking:
    """The number of blocks that images are cut into along rows and cols; see `mtf.halo_exchange`.

    Where a number is 1, images lack the dimension that counts blocks. Convolutions still treat them
    as blocks: with a stride they begin half a filter before the image in every direction, so that
    any blocking gives the same results.
    """

    rows: int = 1
    cols: int = 1

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "rows", "cols")

    @property
    def dims(self) -> tuple[mtf.Dimension, mtf.Dimension]:
        return mtf.Dimension("row_blocks", self.rows), mtf.Dimension("col_blocks", self.cols)


class ConvolutionNorm(mtf.Module):
    """A convolution without a bias, then batch normalisation."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        inputs: mtf.Dimension,
        outputs: mtf.Dimension,
        blocking: Blocking,
        dtypes: mtf.DTypePolicy,
        *,
        size: int = 3,
        stride: int = 1,
        init_zero: bool = False,
        norm: Callable[..., BatchNorm] = BatchNorm,
    ) -> None:
        super().__init__()
        self.convolution = Conv2D(
            mesh,
            inputs,
            outputs,
            dtypes,
            filter_size=(size, size),
            strides=(stride, stride),
            blocks=blocking.dims,
            # He et al. 2015, arXiv:1502.01852, equation 14: for outputs that pass a relu.
            filter_initializer=mtf.VarianceScaling(2.0, "fan_out"),
        )
        self.norm = norm(mesh, [outputs], dtypes, init_zero=init_zero)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return self.norm(self.convolution(x, call), call)


class ResidualBlock(mtf.Module):
    """relu(convolutions(x) + shortcut(x)); He et al. 2015, arXiv:1512.03385, figure 2.

    The shortcut is the identity, or where the shape changes a 1x1 convolution with the stride
    (option B there).

    Args:
      init_zero: whether the block is initialised to its shortcut alone (Goyal et al. 2017,
        arXiv:1706.02677, section 5.1).
    """

    filter_sizes: ClassVar[Sequence[int]]  # of the convolutions
    strided: ClassVar[int] = 0  # the convolution with the stride
    expansion: ClassVar[int] = 1  # output channels / width

    def __init__(
        self,
        mesh: mtf.Mesh,
        inputs: mtf.Dimension,
        width: int,
        blocking: Blocking,
        dtypes: mtf.DTypePolicy,
        *,
        stride: int,
        init_zero: bool,
        norm: Callable[..., BatchNorm] = BatchNorm,
    ) -> None:
        super().__init__()
        self.output_dim = mtf.Dimension(inputs.name, width * self.expansion)
        last = len(self.filter_sizes) - 1
        dims = [inputs, *[mtf.Dimension(inputs.name, width)] * last, self.output_dim]
        self.convolutions = [
            ConvolutionNorm(
                mesh,
                dims[i],
                dims[i + 1],
                blocking,
                dtypes,
                size=size,
                stride=stride if i == self.strided else 1,
                init_zero=init_zero and i == last,
                norm=norm,
            )
            for i, size in enumerate(self.filter_sizes)
        ]
        self.shortcut = None
        if stride != 1 or inputs != self.output_dim:
            self.shortcut = ConvolutionNorm(
                mesh, inputs, self.output_dim, blocking, dtypes, size=1, stride=stride, norm=norm
            )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., rows, cols, output_dim} for x {..., rows, cols, inputs}."""
        shortcut = x if self.shortcut is None else self.shortcut(x, call)
        for i, convolution in enumerate(self.convolutions):
            x = convolution(mtf.relu(x) if i else x, call)
        return mtf.relu(x + shortcut)


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions, the first with the stride."""

    filter_sizes = (3, 3)


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions to four times the width; the 3x3 one has the stride.

    This is ResNet-50 v1.5: https://github.com/facebookarchive/fb.resnet.torch#notes
    """

    filter_sizes = (1, 3, 1)
    strided = 1
    expansion = 4


class StridedFirstBottleneckBlock(BottleneckBlock):
    """A bottleneck whose first convolution has the stride; He et al. 2015, section 4.1."""

    strided = 0
