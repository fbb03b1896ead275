"""The convolutions of a residual network: stems and stages; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.checks import COUNT, check_fields
from mtfrun.errors import InputError
from mtfrun.layers import BatchNorm, Call
from mtfrun.models.resnet.blocks import BasicBlock, Blocking, ConvolutionNorm, ResidualBlock


class SmallImageStem(mtf.Module):
    """A 3x3 convolution, for images such as CIFAR's; He et al. 2015, section 4.2."""

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
        self.convolution = ConvolutionNorm(mesh, inputs, outputs, blocking, dtypes, norm=norm)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return mtf.relu(self.convolution(x, call))


class LargeImageStem(mtf.Module):
    """A 7x7 convolution and 3x3 max pooling, both with stride 2; He et al. 2015, table 1."""

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
        self.convolution = ConvolutionNorm(
            mesh, inputs, outputs, blocking, dtypes, size=7, stride=2, norm=norm
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., rows / 4, cols / 4, outputs} for x {..., rows, cols, inputs}."""
        x = mtf.relu(self.convolution(x, call))
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
        self,
        mesh: mtf.Mesh,
        channels: mtf.Dimension,
        blocking: Blocking,
        dtypes: mtf.DTypePolicy,
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
