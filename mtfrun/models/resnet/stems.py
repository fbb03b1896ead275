"""What comes before the residual blocks."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.layers import BatchNorm, Updates
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
        """Makes the convolution from the channels `inputs` to `outputs`; `norm`: its norm."""
        super().__init__()
        self.convolution = ConvolutionNorm(mesh, inputs, outputs, blocking, dtypes, norm=norm)

    def __call__(self, x: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns {..., rows, cols, outputs} and the norm's moving averages."""
        x, updates = self.convolution(x, training)
        return mtf.relu(x), updates


class LargeImageStem(mtf.Module):
    """A 7x7 convolution and the largest of 3x3, both with stride 2; He et al. 2015, table 1."""

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
        """Makes the convolution from the channels `inputs` to `outputs`; `norm`: its norm."""
        super().__init__()
        self._blocking = blocking
        self.convolution = ConvolutionNorm(
            mesh, inputs, outputs, blocking, dtypes, size=7, stride=2, norm=norm
        )

    def __call__(self, x: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        """Returns {..., rows / 4, cols / 4, outputs} and the norm's moving averages."""
        x, updates = self.convolution(x, training)
        x = mtf.max_pool2d_with_blocks(mtf.relu(x), (3, 3), (2, 2), "SAME", *self._blocking.dims)
        return x, updates
