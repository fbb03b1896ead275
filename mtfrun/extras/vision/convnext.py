"""ConvNeXt: a convolutional network with the shape of a Transformer; Liu et al. 2022."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, SHARE_BELOW_1, check_fields, check_items, check_range
from mtfrun.extras.vision.patches import cut_into_patches, patch_dims
from mtfrun.layers import Call, Dense, DepthwiseConv2D, LayerNorm
from mtfrun.models.resnet.classifier import ImageClassifier, ImageLoss
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.resnet import Blocking, apply_block, cut_into_blocks, mean_over_image


class ConvNextBlock(mtf.Module):
    """x + layer_scale * project(gelu(expand(norm(depthwise(x))))); arXiv:2201.03545, figure 4.

    Args:
      d_model: the channels.
      drop_rate: the probability with which training leaves the second summand of an image out;
        stochastic depth, Huang et al. 2016, arXiv:1603.09382.
      filter_size: rows and cols of the depthwise filters.
      layer_scale: initial value of the trained factor of every channel; None for no factors.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        blocking: Blocking,
        dtypes: mtf.DTypePolicy,
        *,
        drop_rate: float = 0.0,
        filter_size: int = 7,
        layer_scale: float | None = 1e-6,
        activation: Callable[[mtf.Tensor], mtf.Tensor] = mtf.exact_gelu,
    ) -> None:
        super().__init__()
        check_range("ConvNextBlock.drop_rate", drop_rate, SHARE_BELOW_1)
        check_range("ConvNextBlock.filter_size", filter_size, COUNT)
        self._drop_rate, self._dtypes = drop_rate, dtypes
        d_ff = mtf.Dimension("d_ff", 4 * d_model.size)
        self.depthwise = DepthwiseConv2D(
            mesh, d_model, dtypes, filter_size=[filter_size] * 2, blocks=blocking.dims
        )
        self.norm = LayerNorm(mesh, d_model, dtypes)
        self.expand = Dense(mesh, [d_model], [d_ff], dtypes, activation=activation)
        self.project = Dense(mesh, [d_ff], [d_model], dtypes)
        self.layer_scale = None
        if layer_scale is not None:
            initial = mtf.initializers.Constant(layer_scale)
            self.layer_scale = mtf.Variable(
                mesh, [d_model], initial, dtypes.master, reduced_dims=()
            )

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        y = self.norm(self.depthwise(x, call), call)
        y = self.project(self.expand(y, call), call)
        if self.layer_scale is not None:
            y = y * mtf.cast(self.layer_scale, y.dtype)
        if call.training and self._drop_rate:
            batch = [x.shape[0]]
            key = call.key_of(self)
            y = mtf.dropout(y, training=True, rate=self._drop_rate, noise_shape=batch, key=key)
        return x + y


class Downsampling(mtf.Module):
    """A norm, and a 2x2 convolution with stride 2; arXiv:2201.03545, section 2.6."""

    size = 2

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        output_dim: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(mesh, d_model, dtypes)
        inside = patch_dims(self.size)
        self.convolution = Dense(mesh, [*inside, d_model], [output_dim], dtypes)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return self.convolution(cut_into_patches(self.norm(x, call), self.size), call)


@dataclasses.dataclass(frozen=True)
class ConvNextStages:
    """Sizes of the stages, of which all but the first halve rows and cols.

    Attributes:
      stage_sizes: numbers of blocks.
      widths: sizes of d_model.
      patch_size: rows and cols of the patches that become the first stage's pixels.
      drop_rate: rate of the last block, see `ConvNextBlock`; it grows linearly from 0.
      block: a class, called as `block(mesh, d_model, blocking, dtypes, drop_rate=...)`.
      rematerialise: recompute blocks in the backward pass instead of storing their values.
    """

    stage_sizes: Sequence[int] = (3, 3, 9, 3)
    widths: Sequence[int] = (96, 192, 384, 768)
    patch_size: int = 4
    drop_rate: float = 0.0
    block: Callable[..., ConvNextBlock] = ConvNextBlock
    rematerialise: bool = False

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "patch_size")
        check_fields(self, SHARE_BELOW_1, "drop_rate")
        check_items(self, COUNT, "stage_sizes", "widths")
        if len(self.stage_sizes) != len(self.widths):
            raise InputError(f"ConvNextStages.widths={self.widths!r} must have one for each stage")

    @property
    def total_stride(self) -> int:
        return self.patch_size * math.prod(Downsampling.size for _ in self.widths[1:])

    def layers(
        self, mesh: mtf.Mesh, blocking: Blocking, dtypes: mtf.DTypePolicy
    ) -> tuple[list[Downsampling], list[list[ConvNextBlock]]]:
        widths = [mtf.Dimension("d_model", width) for width in self.widths]
        between = [Downsampling(mesh, *pair, dtypes) for pair in itertools.pairwise(widths)]
        rates = iter(np.linspace(0.0, self.drop_rate, sum(self.stage_sizes)).tolist())
        stages = [
            [
                self.block(mesh, width, blocking, dtypes, drop_rate=next(rates))
                for _ in range(number)
            ]
            for number, width in zip(self.stage_sizes, widths, strict=True)
        ]
        return between, stages


class ConvNext(ImageClassifier):
    """Patches, stages of blocks, the mean over the image, a norm, logits; arXiv:2201.03545.

    The image may be cut into blocks, which the layout can split over mesh axes: no blocking and no
    layout changes the results.

    Args:
      image: {rows, cols, channels} of an image.
      blocking: the blocks that images are cut into.
      final_norm: the class of the norm of the mean.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        stages: ConvNextStages = ConvNextStages(),
        blocking: Blocking = Blocking(),
        final_norm: Callable[..., LayerNorm] = LayerNorm,
        image_input: ImageInput = ImageInput(),
        loss: ImageLoss = ImageLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(num_classes, image_input, loss)
        rows, cols, channels = image.dims
        stride = stages.total_stride
        if rows.size % (blocking.rows * stride) or cols.size % (blocking.cols * stride):
            size = f"{rows.size} rows and {cols.size} cols"
            rule = f"the sides of a block must be multiples of {stride}"
            raise InputError(f"{blocking} does not fit images of {size}: {rule}")
        self._blocking, self._patch_size = blocking, stages.patch_size
        self._rematerialise = stages.rematerialise
        inside = patch_dims(stages.patch_size)
        first, last = (mtf.Dimension("d_model", stages.widths[i]) for i in (0, -1))
        self.patches = Dense(mesh, [*inside, channels], [first], dtypes)
        self.patch_norm = LayerNorm(mesh, first, dtypes)
        self.downsampling, self.stages = stages.layers(mesh, blocking, dtypes)
        self.final_norm = final_norm(mesh, last)
        self.softmax = Dense(mesh, [last], [self._classes])

    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = cut_into_patches(cut_into_blocks(images, self._blocking), self._patch_size)
        x = self.patch_norm(self.patches(x, call), call)
        for i, blocks in enumerate(self.stages):
            if i:
                x = self.downsampling[i - 1](x, call)
            for block in blocks:
                x = apply_block(block, x, call, rematerialise=self._rematerialise)
        return self.softmax(self.final_norm(mean_over_image(x), call), call)
