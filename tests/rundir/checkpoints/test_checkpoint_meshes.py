"""A checkpoint saved on one mesh restores on any other, bit for bit."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun.rundir.checkpoints.checkpoints import Checkpoints

# Mesh (data, model) and the axes over which `kernel` [8, 16] and `bias` [16] are split; None is one
# device without DTensor.
PLACEMENTS = {
    "plain": None,
    "4x1": ((4, 1), ["data", dtensor.UNSHARDED], [dtensor.UNSHARDED]),
    "1x4": ((1, 4), [dtensor.UNSHARDED, "model"], ["model"]),
    "2x2": ((2, 2), ["model", "data"], ["data"]),
}


def place(name: str, seed: int) -> dict[str, tf.Variable]:
    """Returns two variables on the mesh of an entry of PLACEMENTS."""
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=(8, 16)).astype("float32"), rng.normal(size=16).astype("float32")]
    placement = PLACEMENTS[name]
    if placement is None:
        variables = [tf.Variable(array) for array in arrays]
    else:
        shape, *specs = placement
        count = int(np.prod(shape))
        mesh = dtensor.create_mesh(
            list(zip(["data", "model"], shape, strict=True)),
            devices=[f"CPU:{index}" for index in range(count)],
        )
        variables = [
            _distributed(array, dtensor.Layout(spec, mesh))
            for array, spec in zip(arrays, specs, strict=True)
        ]
    return dict(zip(["decoder/kernel", "decoder/bias"], variables, strict=True))


def _distributed(array: np.ndarray, layout: dtensor.Layout) -> dtensor.DVariable:
    replicated = dtensor.Layout.replicated(layout.mesh, array.ndim)
    value = dtensor.copy_to_mesh(tf.constant(array), replicated)
    return dtensor.DVariable(dtensor.relayout(value, layout))


def global_values(variables: dict[str, tf.Variable]) -> dict[str, bytes]:
    """Returns the bits of all variables, put together from all devices."""
    values = {}
    for path, variable in variables.items():
        value = variable.read_value()
        if isinstance(variable, dtensor.DVariable):
            replicated = dtensor.Layout.replicated(variable.layout.mesh, value.shape.rank)
            value = dtensor.relayout(value, replicated)
        values[path] = value.numpy().tobytes()
    return values


@pytest.mark.parametrize("target", PLACEMENTS)
@pytest.mark.parametrize("source", PLACEMENTS)
def test_a_checkpoint_moves_between_meshes(
    source: str, target: str, tmp_path: pathlib.Path
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, place(source, 1), metadata={"mesh": source})

    restored = place(target, 2)
    manifest = checkpoints.restore(None, restored)
    assert global_values(restored) == global_values(place("plain", 1))
    assert manifest.variables["decoder/kernel"].shape == (8, 16)
    if PLACEMENTS[target] is not None:
        for path, variable in place(target, 2).items():
            assert restored[path].layout == variable.layout
