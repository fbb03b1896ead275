"""Runs layers on a mesh of 2 x 2 devices and prints the collectives of each as JSON.

Started by test_collectives.py with the environment that makes DTensor write programs.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from mtfrun import layers, mtf
from mtfrun.extras.plan.dtensor_programs import take_programs
from mtfrun.extras.plan.plan import needed_collectives
from mtfrun.extras.vision import UNet, UNetStages
from mtfrun.layers import Call
from mtfrun.models.resnet import BasicBlock, Blocking, ConvolutionSettings
from mtfrun.models.transformer import SequenceCall
from tests.models.moe import mixtures


class Case(NamedTuple):
    """A layer, its layout, and what it reads."""

    name: str
    layout: str
    shape: str
    make: Callable[[mtf.Mesh], mtf.Module]
    call: Callable[[mtf.Module, mtf.Tensor], mtf.Tensor]


BOTH_AXES = "outer_batch:2;batch:4;length:12;d_model:6"
ONE_AXIS = "batch:8;length:12;d_model:6"
ON_DATA = "batch:data;experts:data"


def _mixtures() -> Iterator[Case]:
    """Yields mixtures of experts."""
    split_hidden = f"{ON_DATA};expert_hidden:model"
    for name, layout, shape, make in (
        ("one level", ON_DATA, ONE_AXIS, mixtures.one_level),
        ("one level, split hidden layer", split_hidden, ONE_AXIS, mixtures.one_level),
        ("one level, outer batch", mixtures.LAYOUT, BOTH_AXES, mixtures.one_level),
        ("two levels", mixtures.LAYOUT, BOTH_AXES, mixtures.two_levels),
        ("dropless", ON_DATA, ONE_AXIS, mixtures.dropless),
    ):
        yield Case(name, layout, shape, make, _mix)


def _mix(layer: mtf.Module, x: mtf.Tensor) -> mtf.Tensor:
    return layer(x, SequenceCall(training=True, key=mtf.random_key(0)))


IMAGES = "batch:8;rows:4;cols:4;filters:4"
ROWS = mtf.Dimension("row_blocks", 2)


def _train(block: mtf.Module, x: mtf.Tensor) -> mtf.Tensor:
    return block(x, Call(training=True))


def _blocks() -> Iterator[Case]:
    """Yields residual blocks, whose channels are split, or whose rows."""
    for name, layout, width, stride, shape in (
        ("filters, the same width", "batch:data;filters:model", 4, 1, IMAGES),
        ("filters, twice the width", "batch:data;filters:model", 8, 2, IMAGES),
        (
            "row_blocks, the same width",
            "batch:data;row_blocks:model",
            4,
            1,
            f"row_blocks:{ROWS.size};{IMAGES}",
        ),
    ):
        make = functools.partial(
            _basic_block,
            blocking=Blocking(rows=ROWS.size) if ROWS.name in shape else Blocking(),
            inputs=mtf.convert_to_shape(shape).dims[-1],
            width=width,
            stride=stride,
        )
        yield Case(name, layout, shape, make, _train)


def _basic_block(
    mesh: mtf.Mesh, blocking: Blocking, inputs: mtf.Dimension, width: int, stride: int
) -> BasicBlock:
    return BasicBlock(ConvolutionSettings(mesh, blocking), inputs, width, stride=stride)


def _attentions() -> Iterator[Case]:
    """Yields causal attention to sequences that are split, at once and in blocks."""
    for name, block_length in (("attention at once", None), ("attention in blocks", 4)):
        yield Case(
            name,
            "batch:data;length:model",
            "batch:4;length:16;d_model:8",
            functools.partial(
                layers.MultiHeadAttention,
                d_model=mtf.Dimension("d_model", 8),
                heads=layers.AttentionHeads(4, d_kv=4),
                block_length=block_length,
            ),
            _attend,
        )


def _attend(attention: mtf.Module, x: mtf.Tensor) -> mtf.Tensor:
    bias = layers.AttentionBias.of(layers.causal_mask(x.mesh, x.shape.get_dim_by_name("length")))
    return attention.over_sequences(x, x, bias, Call())


def _unet() -> Case:
    """Returns a U-Net whose images are split along rows and cols."""
    image = "rows:16;cols:16;channels:2"
    make = functools.partial(
        UNet,
        num_classes=3,
        image=mtf.convert_to_shape(image),
        stages=UNetStages(widths=(4, 4), num_convolutions=1),
    )
    layout = "rows:data;cols:model"
    return Case("U-Net", layout, f"batch:2;{image}", make, _segment)


def _segment(model: mtf.Module, x: mtf.Tensor) -> mtf.Tensor:
    assert isinstance(model, UNet)
    return model.logits({"images": x})


CASES = {case.name: case for case in (*_mixtures(), *_blocks(), *_attentions(), _unet())}


def run(case: Case) -> None:
    """Runs a layer forward and backward as one program."""
    mesh = mtf.Mesh("data:2,model:2", case.layout)
    layer = case.make(mesh)
    mtf.initialize(layer)
    variables = [v for v in layer.named_variables().values() if v.trainable]
    shape = mtf.convert_to_shape(case.shape)
    array = np.random.default_rng(0).standard_normal(shape.to_integer_list, np.float32)

    def forward_and_backward(x: mtf.Tensor) -> list[mtf.Tensor | None]:
        y = case.call(layer, x)
        return [y, *mtf.gradients([mtf.reduce_sum(mtf.square(y))], [x, *variables])]

    x = mtf.import_tf_tensor(mesh, array, shape)
    _, *gradients = mtf.function(forward_and_backward)(x)
    sources: list[mtf.Tensor | mtf.Variable] = [x, *variables]
    for gradient, source in zip(gradients, sources, strict=True):
        assert gradient.shape == source.shape


def main(folder: str, *names: str) -> None:
    """Prints {case: [[kind, axes, sizes], ...]} of forward and backward, of these cases."""
    for name in names:
        run(CASES[name])
    named = {
        name: [(c.kind, c.axes, c.sizes) for c, _ in needed_collectives(step.needed)]
        for name, step in zip(names, take_programs(folder), strict=True)
    }
    json.dump(named, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
