"""Residual blocks: a few convolutions, and a shortcut around them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import BatchNorm, Conv2D, Updates


@dataclasses.dataclass(frozen=True)
class Blocking:
    """Into how many blocks images are cut along rows and cols; see `mtf.halo_exchange`.

    Where a number is 1, images lack the dimension. That is not the same as no blocks: convolutions
    with a stride begin half a filter before the image in every direction, so that any blocking
    gives the same numbers.
    """

    rows: int = 1
    cols: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise InputError(f"rows={self.rows} and cols={self.cols} must be at least 1")

    @property
    def dims(self) -> tuple[mtf.Dimension, mtf.Dimension]:
        """The dimensions that count blocks of rows and of cols."""
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
        """Makes the layers; `init_zero` makes the first output 0, `norm` is the norm's class."""
        super().__init__()
        self.convolution = Conv2D(
            mesh,
            inputs,
            outputs,
            dtypes,
            filter_size=(size, size),
            strides=(stride, stride),
            blocks=blocking.dims,
            # He et al. 2015, arXiv:1502.01852, equation 14: for what relu comes after.
            filter_initializer=mtf.VarianceScaling(2.0, "fan_out"),
        )
        self.norm = norm(mesh, [outputs], dtypes, init_zero=init_zero)

    def __call__(self, x: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns the normalised result and the norm's moving averages."""
        return self.norm(self.convolution(x), training)


class ResidualBlock(mtf.Module, abc.ABC):
    """relu(convolutions(x) + shortcut(x)); He et al. 2015, arXiv:1512.03385, figure 2.

    The shortcut is the identity, or where the shape changes a 1x1 convolution with the stride
    (option B there). A subclass says which convolutions.

    Args:
      mesh: the mesh.
      inputs: the channels of x.
      width: the block's width.
      blocking: what images are cut into.
      dtypes: of variables and of activations.
      stride: of the block, in rows and cols.
      init_zero: the block begins as its shortcut alone (Goyal et al. 2017, arXiv:1706.02677,
        section 5.1).
      norm: the class of all norms.
    """

    expansion = 1  # output channels for each of the width

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
        self.convolutions = [
            ConvolutionNorm(mesh, first, last, blocking, dtypes, norm=norm, **options)
            for first, last, options in self._plan(
                inputs, mtf.Dimension(inputs.name, width), stride, init_zero
            )
        ]
        self.shortcut = None
        if stride != 1 or inputs != self.output_dim:
            self.shortcut = ConvolutionNorm(
                mesh, inputs, self.output_dim, blocking, dtypes, size=1, stride=stride, norm=norm
            )

    def __call__(self, x: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns the output {..., rows, cols, output_dim} and the norms' moving averages."""
        updates: Updates = {}
        shortcut = x
        if self.shortcut is not None:
            shortcut, updates = self.shortcut(x, training)
        for i, convolution in enumerate(self.convolutions):
            x, more = convolution(mtf.relu(x) if i else x, training)
            updates |= more
        return mtf.relu(x + shortcut), updates

    @abc.abstractmethod
    def _plan(
        self, inputs: mtf.Dimension, inner: mtf.Dimension, stride: int, init_zero: bool
    ) -> Sequence[tuple[mtf.Dimension, mtf.Dimension, dict[str, Any]]]:
        """Returns input and output channels and the options of each convolution."""


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions, the first with the stride."""

    def _plan(
        self, inputs: mtf.Dimension, inner: mtf.Dimension, stride: int, init_zero: bool
    ) -> Sequence[tuple[mtf.Dimension, mtf.Dimension, dict[str, Any]]]:
        return [
            (inputs, inner, {"stride": stride}),
            (inner, inner, {"init_zero": init_zero}),
        ]


class BottleneckBlock(ResidualBlock):
    """1x1, 3x3 and 1x1 convolutions to four times the width; the 3x3 one has the stride.

    That is version 1.5 of ResNet-50: He et al. had the stride in the first convolution.
    https://github.com/facebookarchive/fb.resnet.torch#notes
    """

    expansion = 4

    def _plan(
        self, inputs: mtf.Dimension, inner: mtf.Dimension, stride: int, init_zero: bool
    ) -> Sequence[tuple[mtf.Dimension, mtf.Dimension, dict[str, Any]]]:
        return [
            (inputs, inner, {"size": 1}),
            (inner, inner, {"stride": stride}),
            (inner, self.output_dim, {"size": 1, "init_zero": init_zero}),
        ]
