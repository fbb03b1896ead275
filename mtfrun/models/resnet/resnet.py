"""Residual networks; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import functools

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import BatchNorm, Call, Dense, Updates
from mtfrun.models.resnet.backbone import Backbone
from mtfrun.models.resnet.blocks import Blocking, ResidualBlock
from mtfrun.models.resnet.classifier import ImageClassifier
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.image_loss import ImageLoss


class ResNet(ImageClassifier):
    """A stem, stages of residual blocks, the mean over the image, logits.

    The image may be cut into blocks, which the layout can put on mesh axes: whatever the blocking
    and the layout, the numbers are the same. The size of a block must stay even until the last
    stage.

    Args:
      mesh: the mesh.
      num_classes: the number of labels.
      image: {rows, cols, channels} of an image.
      backbone: the stem and the residual blocks.
      blocking: what images are cut into.
      image_input: makes normalised floats of images, with augmentation in training.
      loss: what is trained on.
      dtypes: of variables and of activations.
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
        self.softmax = Dense(mesh, [self.stages[-1][-1].output_dim], [self._classes])

    @property
    def updated_paths(self) -> tuple[str, ...]:
        """The paths of the moving averages of all norms."""
        norms = [m for m in self.named_modules().values() if isinstance(m, BatchNorm)]
        return tuple(v.path for n in norms for v in (n.moving_mean, n.moving_variance))

    def _classify(self, images: mtf.Tensor, training: bool) -> tuple[mtf.Tensor, Updates]:
        x, updates = self.stem(in_blocks(images, self._blocking), training)
        for stage in self.stages:
            for block in stage:
                x, more = self._run(block, x, training)
                updates |= more
        batch, *_, filters = x.shape.dims
        # In float32, as the logits: a mean over many places in bfloat16 would lose digits.
        mean = mtf.reduce_mean(mtf.to_float(x), output_shape=mtf.Shape([batch, filters]))
        return self.softmax(mean, Call(training=training)), updates

    def _run(
        self, block: ResidualBlock, x: mtf.Tensor, training: bool
    ) -> tuple[mtf.Tensor, Updates]:
        """Returns what a block makes of x, remembering or not what lies between."""
        if not (self._rematerialise and training):
            return block(x, training)
        result: tuple[mtf.Tensor, Updates] = mtf.recompute_grad(
            functools.partial(block, training=True), [x]
        )
        return result


def in_blocks(images: mtf.Tensor, blocking: Blocking) -> mtf.Tensor:
    """Returns images {batch, rows, cols, channels} cut into blocks.

    Returns:
      {batch, row_blocks, col_blocks, rows, cols, channels}, rows and cols those of a block, without
      the blocks dimensions of size 1.
    """
    batch, rows, cols, channels = images.shape.dims
    row_blocks, col_blocks = ([dim] if dim.size > 1 else [] for dim in blocking.dims)
    rows = mtf.Dimension(rows.name, rows.size // blocking.rows)
    cols = mtf.Dimension(cols.name, cols.size // blocking.cols)
    x = mtf.reshape(images, mtf.Shape([batch, *row_blocks, rows, *col_blocks, cols, channels]))
    return mtf.transpose(x, mtf.Shape([batch, *row_blocks, *col_blocks, rows, cols, channels]))
