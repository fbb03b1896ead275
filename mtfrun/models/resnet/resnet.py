"""Residual networks; He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import BatchNorm, Dense, Updates
from mtfrun.models.resnet.blocks import BasicBlock, Blocking, ResidualBlock
from mtfrun.models.resnet.classifier import ImageClassifier
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.resnet.stems import SmallImageStem


class ResNet(ImageClassifier):
    """A stem, stages of residual blocks, the mean over the picture, logits.

    The picture may be cut into row_blocks x col_blocks, which the layout can put on mesh axes:
    whatever the blocking and the layout, the numbers are the same. Every stage but the first
    halves rows and cols; the size of a block must stay even until then.

    Args:
      mesh: the mesh.
      num_classes: the number of labels.
      image: {rows, cols, channels} of a picture.
      block: a class, called as a `ResidualBlock`.
      stage_sizes: the number of blocks of each stage.
      widths: their widths, one a stage.
      stem: a class, called as `stem(mesh, inputs, outputs, blocking, dtypes, norm=...)`.
      norm: the class of all norms; with gin, `layers.BatchNorm.momentum` is that of their averages.
      row_blocks, col_blocks: how many blocks pictures are cut into.
      init_zero: residual blocks begin as the identity.
      rematerialise: compute residual blocks again in the backward pass instead of remembering what
        is inside them: less memory, the time of one more forward pass.
      image_input: makes normalised floats of pictures, with augmentation in training.
      label_smoothing: the share of the target that is spread over all classes, in training.
      mixup_alpha: train on mixtures of two pictures, see `mixing_shares`; 0 for none.
      dtypes: of variables and of activations.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        block: Callable[..., ResidualBlock] = BasicBlock,
        stage_sizes: Sequence[int] = (3, 3, 3),
        widths: Sequence[int] = (16, 32, 64),
        stem: Callable[..., mtf.Module] = SmallImageStem,
        norm: Callable[..., BatchNorm] = BatchNorm,
        row_blocks: int = 1,
        col_blocks: int = 1,
        init_zero: bool = True,
        rematerialise: bool = False,
        image_input: ImageInput = ImageInput(),
        label_smoothing: float = 0.0,
        mixup_alpha: float = 0.0,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(
            num_classes, image_input, label_smoothing=label_smoothing, mixup_alpha=mixup_alpha
        )
        if len(stage_sizes) != len(widths) or not stage_sizes:
            raise InputError(
                f"stage_sizes={list(stage_sizes)} and widths={list(widths)} must be one number a "
                "stage each"
            )
        rows, cols, channels = image.dims
        if rows.size % row_blocks or cols.size % col_blocks:
            raise InputError(
                f"pictures of {rows.size} rows and {cols.size} cols cannot be cut into "
                f"row_blocks={row_blocks} times col_blocks={col_blocks} equal blocks"
            )
        self._blocking = Blocking(
            mtf.Dimension("row_blocks", row_blocks), mtf.Dimension("col_blocks", col_blocks)
        )
        filters = mtf.Dimension("filters", widths[0])
        self.stem = stem(mesh, channels, filters, self._blocking, dtypes, norm=norm)
        self._rematerialise = rematerialise
        self.stages: list[list[ResidualBlock]] = []
        for stage, (num_blocks, width) in enumerate(zip(stage_sizes, widths, strict=True)):
            blocks = []
            for i in range(num_blocks):
                made = block(
                    mesh,
                    filters,
                    width,
                    self._blocking,
                    dtypes,
                    stride=2 if stage and i == 0 else 1,
                    init_zero=init_zero,
                    norm=norm,
                )
                filters = made.output_dim
                blocks.append(made)
            self.stages.append(blocks)
        self.softmax = Dense(mesh, [filters], [self._classes])

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
        return self.softmax(mean), updates

    def _run(
        self, block: ResidualBlock, x: mtf.Tensor, training: bool
    ) -> tuple[mtf.Tensor, Updates]:
        """Returns what a block makes of x, remembering or not what lies between."""
        if self._rematerialise and training:
            return mtf.recompute_grad(functools.partial(block, training=True), [x])
        return block(x, training)


def in_blocks(images: mtf.Tensor, blocking: Blocking) -> mtf.Tensor:
    """Returns images {batch, rows, cols, channels} cut into blocks.

    Returns:
      {batch, row_blocks, col_blocks, rows, cols, channels}, rows and cols those of a block, without
      the blocks dimensions of size 1.
    """
    batch, rows, cols, channels = images.shape.dims
    row_blocks, col_blocks = ([dim] if dim.size > 1 else [] for dim in blocking.dims)
    rows = mtf.Dimension(rows.name, rows.size // blocking.rows.size)
    cols = mtf.Dimension(cols.name, cols.size // blocking.cols.size)
    x = mtf.reshape(images, mtf.Shape([batch, *row_blocks, rows, *col_blocks, cols, channels]))
    return mtf.transpose(x, mtf.Shape([batch, *row_blocks, *col_blocks, rows, cols, channels]))
