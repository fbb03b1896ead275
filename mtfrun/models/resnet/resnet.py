"""Residual networks: stems, stages of residual blocks; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields, check_items
from mtfrun.layers import ActivationScale, BatchNorm, Call, Conv2D, Dense, recompute
from mtfrun.models.resnet.classifier import ImageClassifier, ImageLoss
from mtfrun.models.resnet.image_input import ImageInput


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


@dataclasses.dataclass(frozen=True)
class ConvolutionSettings:
    """The settings of a network's convolutions.

    Attributes:
      norm: the class of all norms, called as `norm(mesh, [channels], dtypes, init_zero=...)`.
    """

    mesh: mtf.Mesh
    blocking: Blocking = Blocking()
    dtypes: mtf.DTypePolicy = mtf.DTypePolicy()
    norm: Callable[..., BatchNorm] = BatchNorm


class ConvolutionNorm(mtf.Module):
    """A convolution without a bias, then batch normalisation."""

    def __init__(
        self,
        settings: ConvolutionSettings,
        inputs: mtf.Dimension,
        outputs: mtf.Dimension,
        *,
        size: int = 3,
        stride: int = 1,
        init_zero: bool = False,
    ) -> None:
        super().__init__()
        mesh, dtypes = settings.mesh, settings.dtypes
        self.convolution = Conv2D(
            *(mesh, inputs, outputs, dtypes),
            filter_size=(size, size),
            strides=(stride, stride),
            blocks=settings.blocking.dims,
            # He et al. 2015, arXiv:1502.01852, equation 14: for outputs that pass a relu.
            filter_initializer=mtf.VarianceScaling(2.0, "fan_out"),
        )
        self.norm = settings.norm(mesh, [outputs], dtypes, init_zero=init_zero)

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
        settings: ConvolutionSettings,
        inputs: mtf.Dimension,
        width: int,
        *,
        stride: int = 1,
        init_zero: bool = False,
    ) -> None:
        super().__init__()
        self.output_dim = mtf.Dimension(inputs.name, width * self.expansion)
        last = len(self.filter_sizes) - 1
        dims = [inputs, *[mtf.Dimension(inputs.name, width)] * last, self.output_dim]
        self.convolutions = [
            ConvolutionNorm(
                *(settings, dims[i], dims[i + 1]),
                size=size,
                stride=stride if i == self.strided else 1,
                init_zero=init_zero and i == last,
            )
            for i, size in enumerate(self.filter_sizes)
        ]
        self.shortcut = None
        if stride != 1 or inputs != self.output_dim:
            self.shortcut = ConvolutionNorm(
                settings, inputs, self.output_dim, size=1, stride=stride
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
    """1x1, 3x3 and 1x1 convolutions to four times the width; the 3x3 convolution has the stride.

    This is ResNet-50 v1.5: https://github.com/facebookarchive/fb.resnet.torch#notes
    """

    filter_sizes = (1, 3, 1)
    strided = 1
    expansion = 4


class StridedFirstBottleneckBlock(BottleneckBlock):
    """A bottleneck with the stride in its first convolution; He et al. 2015, section 4.1."""

    strided = 0


class SmallImageStem(mtf.Module):
    """A 3x3 convolution, for images such as CIFAR's; He et al. 2015, section 4.2."""

    size, stride = 3, 1

    def __init__(
        self, settings: ConvolutionSettings, inputs: mtf.Dimension, outputs: mtf.Dimension
    ) -> None:
        super().__init__()
        self._blocking = settings.blocking
        self.convolution = ConvolutionNorm(
            settings, inputs, outputs, size=self.size, stride=self.stride
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return mtf.relu(self.convolution(x, call))


class LargeImageStem(SmallImageStem):
    """A 7x7 convolution and 3x3 max pooling, both with stride 2; He et al. 2015, table 1."""

    size, stride = 7, 2

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., rows / 4, cols / 4, outputs} for x {..., rows, cols, inputs}."""
        x = super().__call__(x, call)
        return mtf.max_pool2d_with_blocks(x, (3, 3), (2, 2), "SAME", *self._blocking.dims)


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A stem and stages of residual blocks; every stage but the first halves rows and cols.

    Attributes:
      stem: a class, called as `stem(settings, inputs, outputs)`.
      block: a class, called as a `ResidualBlock`.
      stage_sizes, widths: the number of blocks of each stage, and their width.
      norm: the class of all norms; `layers.BatchNorm.momentum` is for all of them.
      stem_width: the channels of the stem; None: the first of `widths`.
      first_stride: the stride of the first stage; later stages have 2.
      init_zero: whether residual blocks are initialised to the identity.
      rematerialise: whether the values inside of residual blocks are computed again in the backward
        pass instead of stored: less memory, the time of one more forward pass.
    """

    stem: Callable[..., mtf.Module] = SmallImageStem
    block: Callable[..., ResidualBlock] = BasicBlock
    stage_sizes: Sequence[int] = (3, 3, 3)
    widths: Sequence[int] = (16, 32, 64)
    norm: Callable[..., BatchNorm] = BatchNorm
    stem_width: int | None = None
    first_stride: int = 1
    init_zero: bool = True
    rematerialise: bool = False

    def __post_init__(self) -> None:
        for name in ("stem", "block", "norm"):
            if not callable(getattr(self, name)):
                raise InputError(f"Backbone.{name}={getattr(self, name)!r} must be a class")
        check_fields(self, COUNT, "stem_width", optional=True)
        check_fields(self, COUNT, "first_stride")
        check_items(self, COUNT, "stage_sizes", "widths")
        if len(self.stage_sizes) != len(self.widths):
            raise InputError(f"Backbone.widths={self.widths!r} must have one for each stage")

    def layers(
        self, mesh: mtf.Mesh, channels: mtf.Dimension, blocking: Blocking, dtypes: mtf.DTypePolicy
    ) -> tuple[mtf.Module, list[list[ResidualBlock]]]:
        settings = ConvolutionSettings(mesh, blocking, dtypes, self.norm)
        filters = mtf.Dimension("filters", self.stem_width or self.widths[0])
        stem = self.stem(settings, channels, filters)
        stages: list[list[ResidualBlock]] = []
        for number, width in zip(self.stage_sizes, self.widths, strict=True):
            stride = 2 if stages else self.first_stride
            stages.append([])
            for i in range(number):
                block = self.block(
                    *(settings, filters, width), stride=1 if i else stride, init_zero=self.init_zero
                )
                filters = block.output_dim
                stages[-1].append(block)
        return stem, stages


class ResNet(ImageClassifier):
    """A stem, stages of residual blocks, the mean over the image, logits.

    The image may be cut into blocks, which the layout can split over mesh axes: no blocking and no
    layout changes the results. The rows and cols of a block must be even before every stage but the
    first.

    Args:
      image: {rows, cols, channels}.
      activation_scale: whether the output of every block is measured, see
        `layers.ActivationScale`: "activations/" in TensorBoard.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        backbone: Backbone = Backbone(),
        blocking: Blocking = Blocking(),
        image_input: ImageInput = ImageInput(),
        loss: ImageLoss = ImageLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        activation_scale: bool = False,
    ) -> None:
        super().__init__(num_classes, image_input, loss)
        rows, cols, channels = image.dims
        if rows.size % blocking.rows or cols.size % blocking.cols:
            size = f"{rows.size} rows and {cols.size} cols"
            raise InputError(f"{blocking} cannot cut images of {size} into equal blocks")
        self._blocking = blocking
        self._rematerialise = backbone.rematerialise
        self.stem, self.stages = backbone.layers(mesh, channels, blocking, dtypes)
        self.activation = [
            [ActivationScale() for _ in stage] if activation_scale else [] for stage in self.stages
        ]
        self.softmax = Dense(mesh, [self.stages[-1][-1].output_dim], [self._classes])

    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = self.stem(cut_into_blocks(images, self._blocking), call)
        for stage, activation in zip(self.stages, self.activation, strict=True):
            for block, scale in itertools.zip_longest(stage, activation):
                x = apply_block(block, x, call, rematerialise=self._rematerialise)
                if scale is not None:
                    x = scale(x, call)
        return self.softmax(mean_over_image(x), call)


def apply_block(
    block: Callable[[mtf.Tensor, Call], mtf.Tensor],
    x: mtf.Tensor,
    call: Call,
    *,
    rematerialise: bool,
) -> mtf.Tensor:
    """Returns block(x, call), computed again in the backward pass if it is rematerialised."""
    return recompute(block, x, call) if rematerialise and call.training else block(x, call)


def mean_over_image(x: mtf.Tensor) -> mtf.Tensor:
    """Returns the means {batch, channels} of x {batch, ..., channels}.

    In float32, as the logits: a mean over many positions would lose digits in bfloat16.
    """
    batch, *_, channels = x.shape.dims
    return mtf.reduce_mean(mtf.to_float(x), output_shape=mtf.Shape([batch, channels]))


def cut_into_blocks(images: mtf.Tensor, blocking: Blocking) -> mtf.Tensor:
    """Returns {batch, [row_blocks, col_blocks,] rows, cols, channels}, without counts of 1."""
    batch, rows, cols, channels = images.shape.dims
    row_blocks, col_blocks = ([dim] if dim.size > 1 else [] for dim in blocking.dims)
    rows = mtf.Dimension(rows.name, rows.size // blocking.rows)
    cols = mtf.Dimension(cols.name, cols.size // blocking.cols)
    x = mtf.reshape(images, mtf.Shape([batch, *row_blocks, rows, *col_blocks, cols, channels]))
    return mtf.transpose(x, mtf.Shape([batch, *row_blocks, *col_blocks, rows, cols, channels]))
