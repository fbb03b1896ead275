"""Stems: the layers before the residual blocks."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers import BatchNorm, Call
from mtfrun.models.resnet.blocks import Blocking, ConvolutionNorm


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
        """Makes the convolution from channels `inputs` to `outputs`; `norm`: its norm's class."""
        super().__init__()
        self.convolution = ConvolutionNorm(mesh, inputs, outputs, blocking, dtypes, norm=norm)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., rows, cols, outputs} for x {..., rows, cols, inputs}."""
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
        """Makes the convolution from channels `inputs` to `outputs`; `norm`: its norm's class."""
        super().__init__()
        self._blocking = blocking
        self.convolution = ConvolutionNorm(
            mesh, inputs, outputs, blocking, dtypes, size=7, stride=2, norm=norm
        )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns {..., rows / 4, cols / 4, outputs} for x {..., rows, cols, inputs}."""
        x = mtf.relu(self.convolution(x, call))
        return mtf.max_pool2d_with_blocks(x, (3, 3), (2, 2), "SAME", *self._blocking.dims)
