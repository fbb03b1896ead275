"""Residual networks; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import itertools

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import ActivationScale, Call, Dense, recompute
from mtfrun.models.resnet.backbone import Backbone
from mtfrun.models.resnet.blocks import Blocking
from mtfrun.models.resnet.classifier import ImageClassifier
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.image_loss import ImageLoss


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
