"""The output and all gradients of a compiled layer as numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.models.transformer import SequenceCall

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"


def output_and_gradients(
    mesh_shape: str,
    make_layer: Callable[[mtf.Mesh], mtf.Module],
    apply: Callable[[Any, Mapping[str, mtf.Tensor], SequenceCall], mtf.Tensor],
    inputs: Mapping[str, tuple[str, np.ndarray]],
) -> dict[str, np.ndarray]:
    """Returns {"output": ..., path or input name: gradient} of a random projection of the output.

    `inputs`: by name the shape and value; float ones get gradients.
    """
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    layer = make_layer(mesh)
    mtf.initialize(layer, seed=1)
    variables = layer.named_variables()
    fixed = {}
    for name, (shape, value) in inputs.items():
        if value.dtype.kind == "f":
            variables[name] = mtf.Variable(mesh, shape, lambda shape, rng, value=value: value)
            variables[name].initialize(0, name)
        else:
            fixed[name] = mtf.import_tf_tensor(mesh, value, shape)
    floats = [name for name in inputs if name not in fixed]

    def run(fixed: dict[str, mtf.Tensor]) -> tuple[mtf.Tensor, dict[str, mtf.Tensor | None]]:
        def projected() -> tuple[mtf.Tensor, mtf.Tensor]:
            tensors = {**fixed, **{name: mtf.read_variable(variables[name]) for name in floats}}
            output = apply(layer, tensors, SequenceCall(training=True, key=mtf.random_key(7)))
            direction = np.random.default_rng(3).normal(size=output.shape.to_integer_list)
            return mtf.reduce_sum(output * mtf.constant(mesh, direction, output.shape)), output

        (_, output), gradients = mtf.value_and_gradients(projected, variables)
        return output, gradients

    output, gradients = mtf.to_numpy(mtf.function(run)(fixed))
    return {"output": output, **gradients}
