"""Plans a training on a mesh without its devices and with them, and prints both as JSON.

Started by test_plan.py with the environment that makes DTensor write its programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf, training
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import ROOTS
from mtfrun.tools.planning import Plan, Resources, as_json, plan_training


def main(folder: str, *arguments: str) -> None:
    """Prints {"planned": plan, "real": plan}, or with --measure {"peak": bytes, "measured": bytes}.

    The other arguments are those of the command plan.
    """
    measure = "--measure" in arguments
    flags = parse_flags(["plan", *(x for x in arguments if x != "--measure")])
    config.parse(flags.gin_file, flags.bindings, roots=ROOTS)
    config.override(mtf.Mesh, shape=flags.mesh)
    if measure:
        # A thread for two devices, whatever the number of processors. With fewer some devices wait
        # while others are at their peaks; with more the independent parts of a device's step run at
        # once.
        devices = mtf.convert_to_shape(flags.mesh).size
        tf.config.threading.set_inter_op_parallelism_threads(devices // 2)
        values: dict[str, Any] = dict(_measured(folder))
    else:
        # First the real one, so that there are enough simulated devices.
        real = _planned(folder, contextlib.nullcontext())
        values = {"real": real, "planned": _planned(folder, mtf.planned_meshes())}
    json.dump(values, sys.stdout)


def _planned(folder: str, meshes: contextlib.AbstractContextManager[None]) -> dict[str, Any]:
    with meshes:
        experiment, evaluation = build()
        one = config.build(Training, experiment, evaluation)
    plan = plan_training(one, folder)
    values = as_json(one, plan, Resources()) | {"operations": _operations(plan)}
    # The second program of a process has more scalar constants, see `engine.spare_counters`.
    for name in ("constants", "total"):
        del values["memory"][name]
    return values


def _operations(plan: Plan) -> list[Any]:
    return [
        (operation.name, [value.type.sizes for value in operation.results], times)
        for operation, times in plan.program.operations_of_step()
        if operation.name != "Const"
    ]


def _measured(folder: str) -> dict[str, int]:
    """Returns the peak that is planned for all devices, and that of the process."""
    experiment, evaluation = build()
    one = config.build(Training, experiment, evaluation)
    plan = plan_training(one, folder)
    steps = training.train_steps_function(
        one.state, microbatches=one.options.microbatches, clip_norm=one.options.clip_norm
    )
    features = {
        name: mtf.import_tf_tensor(
            one.state.mesh,
            np.ones([1, *shape.to_integer_list], np.int32),
            mtf.Shape([mtf.Dimension("steps", 1)]) + shape,
        )
        for name, shape in experiment.feature_shapes(one.batch_size).items()
    }

    def run(count: int) -> None:
        mtf.to_numpy(steps(features, mtf.constant(one.state.mesh, count, dtype=tf.int32)))

    run(0)  # compiles
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run(1)
    return {
        "peak": plan.peak.num_bytes * plan.mesh.size,
        "measured": _status("VmHWM") - before,
    }


def _status(name: str) -> int:
    lines = pathlib.Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
