"""U-Nets for images and volumes.

Ronneberger et al. 2015, arXiv:1505.04597, and in three dimensions Cicek et al. 2016,
arXiv:1606.06650. As there in 3-D, every convolution is followed by a norm; its input is padded, so
that a mask has the size of its image.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields, check_items
from mtfrun.extras.vision.segmentation.model import SegmentationLoss, SegmentationModel
from mtfrun.layers import (
    BatchNorm,
    Call,
    Conv2D,
    Conv2DTranspose,
    Conv3D,
    Conv3DTranspose,
    Dense,
    LayerNorm,
)
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.resnet import apply_block

# By the number of spatial dimensions.
_CONVOLUTIONS: dict[int, type[Conv2D | Conv3D]] = {2: Conv2D, 3: Conv3D}
_TRANSPOSED: dict[int, type[Conv2DTranspose | Conv3DTranspose]] = {
    2: Conv2DTranspose,
    3: Conv3DTranspose,
}
_POOLING = {2: mtf.max_pool2d, 3: mtf.max_pool3d}

Norm = Callable[..., BatchNorm | LayerNorm]


class ConvolutionBlock(mtf.Module):
    """Convolutions with filters of size 3, each followed by a norm and a relu."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        inputs: mtf.Dimension,
        outputs: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        *,
        num_spatial: int,
        num_convolutions: int,
        norm: Norm,
    ) -> None:
        super().__init__()
        convolution = _CONVOLUTIONS[num_spatial]
        # He et al. 2015, arXiv:1502.01852, equation 10: for outputs that pass a relu.
        initializer = mtf.VarianceScaling(2.0, "fan_in")
        self.convolutions = [
            convolution(mesh, x, outputs, dtypes, filter_initializer=initializer)
            for x in [inputs, *[outputs] * (num_convolutions - 1)]
        ]
        self.norms = [norm(mesh, [outputs], dtypes) for _ in self.convolutions]

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = mtf.relu(norm(convolution(x, call), call))
        return x


@dataclasses.dataclass(frozen=True)
class UNetStages:
    """The blocks of a U-Net on its way down; but for the last there is one for each on its way up.

    Attributes:
      widths: the channels of each stage; all but the first have half of the size before them, along
        every spatial dimension.
      num_convolutions: number of convolutions in every block.
      norm: the class of all norms, called as `norm(mesh, [filters], dtypes)`, such as
        layers.BatchNorm or layers.LayerNorm.
      rematerialise: recompute blocks in the backward pass instead of storing their values.
    """

    widths: Sequence[int] = (16, 32, 64, 128)
    num_convolutions: int = 2
    norm: Norm = BatchNorm
    rematerialise: bool = False

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_convolutions")
        check_items(self, COUNT, "widths")
        if len(self.widths) < 2:
            raise InputError(f"UNetStages.widths={self.widths!r} must be two or more")

    @property
    def total_stride(self) -> int:
        return 1 << len(self.widths) - 1


class UNet(SegmentationModel):
    """Blocks with pooling between them, the same with transposed convolutions, and a softmax.

    Every block on the way up also reads the output of the block of its size on the way down.

    A layout may split the spatial dimensions, such as "rows:data;cols:model": devices exchange the
    edges of their parts for every convolution. No layout changes the results.

    Args:
      image: {rows, cols, channels} of an image or {depth, rows, cols, channels} of a volume.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        stages: UNetStages = UNetStages(),
        image_input: ImageInput = ImageInput(),
        loss: SegmentationLoss = SegmentationLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(num_classes, image_input, loss)
        *spatial, channels = image.dims
        if len(spatial) not in _CONVOLUTIONS:
            raise InputError(f"UNet reads images and volumes with channels, not {image}")
        for dim in spatial:
            divisor = stages.total_stride * mesh.num_splits(dim)
            if dim.size % divisor:
                rule = f"on {mesh.num_splits(dim)} device(s) it must be a multiple of {divisor}"
                raise InputError(f"images have {dim.size} {dim.name}: {rule}")
        self._rematerialise, self._num_spatial = stages.rematerialise, len(spatial)
        filters = [mtf.Dimension("filters", width) for width in stages.widths]

        block = functools.partial(
            ConvolutionBlock,
            mesh,
            dtypes=dtypes,
            num_spatial=len(spatial),
            num_convolutions=stages.num_convolutions,
            norm=stages.norm,
        )
        self.down = [block(*pair) for pair in itertools.pairwise([channels, *filters])]
        # From the smallest size to the image's.
        pairs = list(itertools.pairwise(filters[::-1]))
        transposed = _TRANSPOSED[len(spatial)]
        self.upsampling = [transposed(mesh, inputs, outputs, dtypes) for inputs, outputs in pairs]
        self.up = [block(mtf.Dimension(x.name, 2 * x.size), x) for _, x in pairs]
        self.softmax = Dense(mesh, [filters[0]], [self._classes])

    def _segment(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        x, pool = images, _POOLING[self._num_spatial]
        skipped: list[mtf.Tensor] = []
        for block in self.down:
            if skipped:
                x = pool(x)
            x = apply_block(block, x, call, rematerialise=self._rematerialise)
            skipped.append(x)
        skipped.pop()
        for upsample, block in zip(self.upsampling, self.up, strict=True):
            x = upsample(x, call)
            x = mtf.concat([skipped.pop(), x], "filters")
            x = apply_block(block, x, call, rematerialise=self._rematerialise)
        return self.softmax(x, call)
