"""Runs of an optimizer on known parameters and gradients, as in a training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mtfrun import mtf, optim


@dataclasses.dataclass(frozen=True)
class Known:
    """An initializer that returns a known value."""

    value: np.ndarray

    def __call__(self, shape: mtf.Shape, rng: np.random.Generator) -> np.ndarray:
        return self.value


def make_variables(
    mesh: mtf.Mesh,
    values: Mapping[str, np.ndarray],
    dims: Mapping[str, list[str]],
    merged: Sequence[str] = (),
    reduced: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, mtf.Variable]:
    """Returns variables with storage by path; `merged` and `reduced` have names of dimensions."""
    variables = {}
    for path, value in values.items():
        shape = [mtf.Dimension(*pair) for pair in zip(dims[path], value.shape, strict=True)]
        merged_dims = [dim for dim in shape if dim.name in merged]
        reduced_dims = [dim for dim in shape if dim.name in reduced.get(path, ())]
        variables[path] = mtf.Variable(
            mesh, shape, Known(value), merged_dims=merged_dims, reduced_dims=reduced_dims
        )
        variables[path].initialize(seed=0, path=path)
    return variables


def run_updates(
    optimizer: optim.Optimizer,
    variables: Mapping[str, mtf.Variable],
    gradients: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Updates the variables once for every entry of the gradients' first axis, in a compiled step.

    Returns, by path, the values after every update: `[step, ...]`.
    """
    optimizer.init(variables)
    for path, slot in [*optimizer.named_slots().items(), *optimizer.named_averages().items()]:
        slot.initialize(seed=0, path=path)

    @mtf.function
    def update(step_gradients: dict[str, mtf.Tensor], step: mtf.Tensor) -> None:
        for variable, value in optimizer.update(step_gradients, step).items():
            mtf.assign(variable, value)

    mesh = next(iter(variables.values())).mesh
    after: dict[str, list[np.ndarray]] = {path: [] for path in variables}
    for step in range(len(next(iter(gradients.values())))):
        step_gradients = {
            path: mtf.import_tf_tensor(mesh, gradients[path][step], variable.shape)
            for path, variable in variables.items()
        }
        update(step_gradients, mtf.import_tf_tensor(mesh, np.int32(step), []))
        for path, variable in variables.items():
            after[path].append(mtf.to_numpy(mtf.read_variable(variable)))
    return {path: np.stack(values) for path, values in after.items()}
