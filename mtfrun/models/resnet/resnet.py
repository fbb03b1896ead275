"""Residual networks: stems, stages of residual blocks; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.layers import ActivationScale, BatchNorm, Call, Dense, recompute
from mtfrun.models.resnet.blocks import BasicBlock, Blocking, ConvolutionNorm, ResidualBlock
from mtfrun.models.resnet.classifier import ImageClassifier, ImageLoss
from mtfrun.models.resnet.image_input import ImageInput


class SmallImageStem(mtf.Module):
    """A 3x3 convolution, for images such as CIFAR's; He et al. 2015, section 4.2."""

    size, stride = 3, 1

    def __init__(
        self,
        mesh: mtf.Mesh,
        inputs: mtf.Dimension,
        outputs: mtf.Dimension,
        blocking: Blocking,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        norm: Callable[..., BatchNorm] = BatchNorm,
    ) -> None:
        super().__init__()
        self._blocking = blocking
        size, stride = self.size, self.stride
        self.convolution = ConvolutionNorm(
            mesh, inputs, outputs, blocking, dtypes, size=size, stride=stride, norm=norm
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
      stem: a class, called as `stem(mesh, inputs, outputs, blocking, dtypes, norm=...)`.
      block: a class, called as a `ResidualBlock`.
      stage_sizes: the number of blocks of each stage.
      widths: the width of the blocks of each stage.
      norm: the class of all norms; `layers.BatchNorm.momentum` is for all of them.
      stem_width: the channels of the stem; None: the first of `widths`.
      first_stride: of the first stage; the stride of later stages is 2.
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
                raise InputError(f"{name}={getattr(self, name)!r} must be a class")
        check_fields(self, COUNT, "stem_width", optional=True)
        check_fields(self, COUNT, "first_stride")
        sizes, widths = self.stage_sizes, self.widths
        if not (_are_sizes(sizes) and _are_sizes(widths) and len(sizes) == len(widths)):
            raise InputError(
                f"stage_sizes={sizes!r} and widths={widths!r} must be lists of integers, one for "
                "each stage, of at least 1"
            )

    def layers(
        self, mesh: mtf.Mesh, channels: mtf.Dimension, blocking: Blocking, dtypes: mtf.DTypePolicy
    ) -> tuple[mtf.Module, list[list[ResidualBlock]]]:
        """Returns the stem, and the residual blocks of every stage."""
        filters = mtf.Dimension("filters", self.stem_width or self.widths[0])
        stem = self.stem(mesh, channels, filters, blocking, dtypes, norm=self.norm)
        stages: list[list[ResidualBlock]] = []
        for stage, (num_blocks, width) in enumerate(
            zip(self.stage_sizes, self.widths, strict=True)
        ):
            stages.append([])
            stride = 2 if stage else self.first_stride
            for i in range(num_blocks):
                block = self.block(
                    mesh,
                    filters,
                    width,
                    blocking,
                    dtypes,
                    stride=1 if i else stride,
                    init_zero=self.init_zero,
                    norm=self.norm,
                )
                filters = block.output_dim
                stages[-1].append(block)
        return stem, stages


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(isinstance(size, int) and size >= 1 for size in value)
    )


class ResNet(ImageClassifier):
    """A stem, stages of residual blocks, the mean over the image, logits.

    The image may be cut into blocks, which the layout can split over mesh axes: no blocking and no
    layout changes the results. The rows and cols of a block must be even before every stage but the
    first.

    Args:
      image: {rows, cols, channels} of an image.
      backbone: the stem and the residual blocks.
      blocking: the blocks that images are cut into.
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
            raise InputError(
                f"images of {rows.size} rows and {cols.size} cols cannot be cut into "
                f"{blocking.rows} times {blocking.cols} equal blocks: Blocking.rows must divide "
                "the rows, and Blocking.cols the cols"
            )
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
                if self._rematerialise and call.training:
                    x = recompute(block, x, call)
                else:
                    x = block(x, call)
                if scale is not None:
                    x = scale(x, call)
        batch, *_, filters = x.shape.dims
        # In float32, as the logits: a mean over many positions would lose digits in bfloat16.
        mean = mtf.reduce_mean(mtf.to_float(x), output_shape=mtf.Shape([batch, filters]))
        return self.softmax(mean, call)


def cut_into_blocks(images: mtf.Tensor, blocking: Blocking) -> mtf.Tensor:
    """Returns {batch, [row_blocks, col_blocks,] rows, cols, channels}, without counts of 1."""
    batch, rows, cols, channels = images.shape.dims
    row_blocks, col_blocks = ([dim] if dim.size > 1 else [] for dim in blocking.dims)
    rows = mtf.Dimension(rows.name, rows.size // blocking.rows)
    cols = mtf.Dimension(cols.name, cols.size // blocking.cols)
    x = mtf.reshape(images, mtf.Shape([batch, *row_blocks, rows, *col_blocks, cols, channels]))
    return mtf.transpose(x, mtf.Shape([batch, *row_blocks, *col_blocks, rows, cols, channels]))
