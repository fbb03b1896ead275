"""Plans a training on a mesh without its devices and with them, and prints both as JSON.

Started by test_plan.py with the environment that makes DTensor write its programs.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf, training
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.extras.plan.description import as_json
from mtfrun.extras.plan.plan import Plan, plan_training

MEASURE = "--measure="
# All devices of a process have one allocator.
ALLOCATOR = "CPU:0"
MEASURED_STEPS = 9


def main(folder: str, *arguments: str) -> None:
    """Prints {"planned": plan, "real": plan}, or {"peak": bytes, "measured": bytes}.

    The second with `--measure=THREADS`, as many threads that run operations. The other arguments
    are flags of the command plan.
    """
    measure = [x.removeprefix(MEASURE) for x in arguments if x.startswith(MEASURE)]
    flags = parse_flags(["plan", *(x for x in arguments if not x.startswith(MEASURE))])
    config.parse(flags.gin_file, flags.bindings, roots=ROOTS)
    config.override(mtf.Mesh, shape=flags.mesh)
    if measure:
        tf.config.threading.set_inter_op_parallelism_threads(int(measure[0]))
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
    values = as_json(one, plan, None, {}) | {"operations": _operations(plan)}
    # The second program of a process has more scalar constants, see `engine.spare_counters`.
    for name in ("constants", "total"):
        del values["memory"][name]
    return values


def _operations(plan: Plan) -> list[Any]:
    return [
        (operation.name, [value.sizes for value in operation.results], times)
        for operation, times in plan.program.body.runs()
        if operation.name != "Const"
    ]


def _measured(folder: str) -> dict[str, float]:
    """Returns the planned peak of all devices, and the median of measured ones, in bytes."""
    experiment, evaluation = build()
    one = config.build(Training, experiment, evaluation)
    plan = plan_training(one, folder)
    steps = training.train_steps_function(one.state, one.options)
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

    def peak_of_a_step() -> int:
        tf.config.experimental.reset_memory_stats(ALLOCATOR)
        before = tf.config.experimental.get_memory_info(ALLOCATOR)["current"]
        run(1)
        return int(tf.config.experimental.get_memory_info(ALLOCATOR)["peak"]) - before

    run(0)  # compiles
    run(1)  # allocates what the first step leaves
    return {
        "peak": plan.peak.num_bytes * plan.mesh.size,
        "measured": statistics.median(peak_of_a_step() for _ in range(MEASURED_STEPS)),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
