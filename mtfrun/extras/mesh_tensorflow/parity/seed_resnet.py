"""The ResNet of Mesh TensorFlow in 2018, quirks included. New models use `resnet.ResNet`.

Images are cut into blocks of 32 x 96 with channels folded into columns; only the first convolution
reads across blocks, and only to the left and right; the normalisation takes statistics over the
batch alone, has a scale per example, and never updates its moving averages.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Call, Conv2D, Dense
from mtfrun.models.resnet.classifier import ImageClassifier
from mtfrun.models.resnet.image_input import ImageInput

_BLOCK_ROWS, _BLOCK_COLS = 32, 96
_STRIDES = (1, 2, 2)
_EPSILON = 1e-5


class SeedBatchNorm(mtf.Module):
    """Normalises every position of an image by its statistics over the batch.

    scale, bias: {batch}; moving_mean, moving_variance: {*positions}.
    """

    def __init__(
        self, mesh: mtf.Mesh, batch: mtf.Dimension, positions: Iterable[mtf.Dimension]
    ) -> None:
        super().__init__()
        shape = mtf.Shape(positions)
        one = mtf.initializers.Ones()
        self._batch = batch
        self.scale = mtf.Variable(mesh, [batch], one)
        self.bias = mtf.Variable(mesh, [batch])
        self.moving_mean = mtf.Variable(mesh, shape, trainable=False)
        self.moving_variance = mtf.Variable(mesh, shape, one, trainable=False)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Uses batch statistics in training, else moving averages; x: {batch, *positions}."""
        if call.training:
            centred = x - mtf.reduce_mean(x, reduced_dim=self._batch)
            variance = mtf.reduce_mean(mtf.square(centred), reduced_dim=self._batch)
        else:
            centred, variance = x - self.moving_mean, mtf.read_variable(self.moving_variance)
        return centred * mtf.rsqrt(variance + _EPSILON) * self.scale + self.bias


class SeedBottleneck(mtf.Module):
    """Three convolutions with a shortcut, projected if `project`; the last, 1x1, is strided."""

    def __init__(
        self, mesh: mtf.Mesh, shape: mtf.Shape, filters: int, *, stride: int, project: bool
    ) -> None:
        super().__init__()
        batch, row_blocks, col_blocks, rows, cols, inputs = shape.dims
        outputs = mtf.Dimension(inputs.name, filters)
        strided = [mtf.Dimension(dim.name, math.ceil(dim.size / stride)) for dim in (rows, cols)]
        inner_positions = [row_blocks, col_blocks, rows, cols, outputs]
        outer_positions = [row_blocks, col_blocks, *strided, outputs]
        self.output_shape = mtf.Shape([batch, *outer_positions])
        point = functools.partial(Conv2D, filter_size=(1, 1))
        strides = (stride, stride)
        self.projection = self.projection_norm = None
        if project:
            self.projection = point(mesh, inputs, outputs, strides=strides)
            self.projection_norm = SeedBatchNorm(mesh, batch, outer_positions)
        self.first = point(mesh, inputs, outputs)
        self.first_norm = SeedBatchNorm(mesh, batch, inner_positions)
        self.second = Conv2D(mesh, outputs, outputs, filter_size=(3, 3))
        self.second_norm = SeedBatchNorm(mesh, batch, inner_positions)
        self.third = point(mesh, outputs, outputs, strides=strides)
        self.third_norm = SeedBatchNorm(mesh, batch, outer_positions)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        shortcut = x
        if self.projection is not None and self.projection_norm is not None:
            shortcut = self.projection_norm(self.projection(x, call), call)
        x = mtf.relu(self.first_norm(self.first(x, call), call))
        x = mtf.relu(self.second_norm(self.second(x, call), call))
        x = self.third_norm(self.third(x, call), call)
        return mtf.relu(x + shortcut)


class SeedResNet(ImageClassifier):
    """A 7x7 convolution, bottlenecks, a hidden layer, logits.

    Args:
      image: {rows, cols, channels}; rows must be a multiple of 32, cols * channels of 96. Grey
        images of other columns are read as three equal channels.
      batch_size: the number of images in every batch, in evaluation too.
      num_layers: the number of repetitions of the three layers of blocks.
      layer_sizes: the number of blocks in each layer; values after the third are ignored.
      filter_sizes: the filters of each layer; the 7x7 convolution has the first.
      evaluates_batches: evaluation, too, normalises by the statistics of its batch. The original
        has moving averages there, which never change from 0 and 1: it learns, and evaluates at
        chance.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        batch_size: int,
        num_layers: int = 6,
        layer_sizes: Sequence[int] = (3, 4, 6, 3),
        filter_sizes: Sequence[int] = (64, 64, 128, 256, 512),
        hidden_size: int = 256,
        evaluates_batches: bool = False,
    ) -> None:
        super().__init__(num_classes, ImageInput())
        self._evaluates_batches = evaluates_batches
        rows, cols, channels = (dim.size for dim in image)
        self._copies = 3 if channels == 1 and cols % _BLOCK_COLS else 1
        channels *= self._copies
        if rows % _BLOCK_ROWS or cols * channels % _BLOCK_COLS:
            raise InputError(
                f"{rows} rows of images must be a multiple of {_BLOCK_ROWS}, and {cols} cols * "
                f"{channels} channels of {_BLOCK_COLS}"
            )
        batch = mtf.Dimension("batch", batch_size)
        row_blocks = mtf.Dimension("row_blocks", rows // _BLOCK_ROWS)
        col_blocks = mtf.Dimension("col_blocks", cols * channels // _BLOCK_COLS)
        block = [mtf.Dimension("rows", _BLOCK_ROWS), mtf.Dimension("cols", _BLOCK_COLS)]
        one_channel = mtf.Dimension("one_channel", 1)
        filters = mtf.Dimension("filters", filter_sizes[0])
        self._input_shape = mtf.Shape([batch, *image])
        # The order of dimensions in memory, and in convolutions.
        self._stored = mtf.Shape([batch, row_blocks, block[0], col_blocks, block[1], one_channel])
        self._blocked = mtf.Shape([batch, row_blocks, col_blocks, *block, one_channel])
        self.first = Conv2D(
            mesh, one_channel, filters, filter_size=(7, 7), blocks=[None, col_blocks]
        )
        shape = mtf.Shape([*self._blocked.dims[:-1], filters])
        self.first_norm = SeedBatchNorm(mesh, batch, shape.dims[1:])
        self.blocks: list[SeedBottleneck] = []
        stages = list(zip(layer_sizes, filter_sizes, _STRIDES, strict=False))
        for num_blocks, num_filters, stride in stages * num_layers:
            for i in range(num_blocks):
                bottleneck = SeedBottleneck(
                    mesh, shape, num_filters, stride=stride if i == 0 else 1, project=i == 0
                )
                shape = bottleneck.output_shape
                self.blocks.append(bottleneck)
        hidden = mtf.Dimension("hidden", hidden_size)
        self.hidden = Dense(mesh, shape.dims[1:], [hidden], activation=mtf.relu)
        self.softmax = Dense(mesh, [hidden], [self._classes])

    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        if images.shape != self._input_shape:
            raise mtf.ShapeError(
                f"images are {images.shape}, but this network was made for {self._input_shape}, "
                "with a scale for each example"
            )
        if self._evaluates_batches:  # only the normalisation asks for it
            call = dataclasses.replace(call, training=True)
        images = mtf.concat([images] * self._copies, images.shape.dims[-1].name)
        x = mtf.transpose(mtf.reshape(images, self._stored), self._blocked)
        x = mtf.relu(self.first_norm(self.first(x, call), call))
        for block in self.blocks:
            x = block(x, call)
        return self.softmax(self.hidden(x, call), call)
