"""The subject: what a step of training on long sequences takes of the memory of its process.

The processes of a mesh take the step together; the first one writes what all have measured.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import pathlib
import re
import statistics
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim, processes
from mtfrun.extras.plan.dtensor_programs import take_programs
from mtfrun.extras.plan.memory import peak_of
from mtfrun.processes.child_process import end_with_launcher
from mtfrun.training import TrainState, train_steps_function
from tests.bench.mtfrun_lm import language_model
from tests.bench.train import Sizes

VOCABULARY = 384
MB = 1e6
# Of the device of each process; it counts with oneDNN.
ALLOCATOR = "CPU:0"


# Of a first step that is not measured: it loads operations and starts threads.
SHORT_LENGTH = 256


def state_of(mesh: mtf.Mesh, arguments: argparse.Namespace) -> TrainState:
    """Returns a language model over bytes with the slots of Adafactor."""
    config = Sizes(
        arguments.d_model,
        4 * arguments.d_model,
        arguments.num_layers,
        arguments.num_heads,
        VOCABULARY,
    )
    block_length = arguments.block or None
    model = language_model(
        mesh, config, arguments.length, block_length=block_length, tied_softmax=True
    )
    state = TrainState(model, optim.Adafactor(), mesh)
    state.initialize()
    return state


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns sizes of this process, in MB.

    "tensors" is the peak of TensorFlow's allocator in a step, "step" that of the process, both
    above the size before; "compiled" remains of a compilation. A device needs variables and a step.
    """
    mesh = mtf.Mesh(arguments.mesh, arguments.layout)
    short = {"length": SHORT_LENGTH, "num_layers": 1, "block": arguments.block and 64}
    _Steps(mesh, argparse.Namespace(**{**vars(arguments), **short})).take(1)
    steps = _Steps(mesh, arguments)
    initialised = _resident()
    # For no steps: memory that a step has used TensorFlow keeps for the next one.
    steps.take(0)
    compiled = _resident()
    # See proc(5): the largest size becomes the present one.
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    tensors, losses = [], []
    for _ in range(arguments.steps):
        tf.config.experimental.reset_memory_stats(ALLOCATOR)
        before = tf.config.experimental.get_memory_info(ALLOCATOR)["current"]
        losses.append(steps.take(1))
        tensors.append(tf.config.experimental.get_memory_info(ALLOCATOR)["peak"] - before)
    in_step = (_status("VmHWM") - compiled) / MB
    variables = _local_bytes(steps.state) / MB
    return {
        "variables_mb": round(variables, 1),
        "compiled_mb": round((compiled - initialised) / MB, 1),
        "tensors_mb": round(statistics.median(tensors) / MB, 1),
        "step_mb": round(in_step, 1),
        "total_mb": round(variables + in_step, 1),
        "losses": losses,
    }


class _Steps:
    def __init__(self, mesh: mtf.Mesh, arguments: argparse.Namespace) -> None:
        self.state = state_of(mesh, arguments)
        shape = mtf.Shape([("steps", 1), ("batch", 1), ("length", arguments.length)])
        ids = np.random.default_rng(0).integers(1, 256, shape.to_integer_list).astype(np.int32)
        self._features = {"targets": mtf.import_tf_tensor(mesh, ids, shape)}
        self._function = train_steps_function(self.state)

    def take(self, number: int) -> float:
        """Takes 0 or 1 steps and returns the loss, 0 for none."""
        count = mtf.constant(self.state.mesh, number, dtype=tf.int32)
        loss = mtf.to_numpy(self._function(self._features, count).metrics["loss"])
        return float(loss.total[0] / max(loss.weight[0], 1.0))


def plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns what the program of a step needs on each device, in MB, without running it."""
    with mtf.planned_meshes():
        mesh = mtf.Mesh(arguments.mesh, arguments.layout)
    state = state_of(mesh, arguments)
    shape = mtf.Shape([("steps", 1), ("batch", 1), ("length", arguments.length)])
    targets = mtf.zeros(mesh, shape, tf.int32)
    take_programs(arguments.programs)
    train_steps_function(state)({"targets": targets}, mtf.constant(mesh, 0, dtype=tf.int32))
    program = take_programs(arguments.programs)[-1].running
    peak = peak_of(program)
    variables = _local_bytes(state) / MB
    constants = sum(value.num_bytes for value in program.constants) / MB
    return {
        "variables_mb": round(variables, 1),
        "constants_mb": round(constants, 1),
        "step_mb": round(peak.num_bytes / MB, 1),
        "total_mb": round(variables + constants + peak.num_bytes / MB, 1),
    }


def _local_bytes(state: TrainState) -> int:
    variables = state.named_variables().values()
    return sum(int(np.prod(v.mesh.local_sizes(v.stored_shape))) * v.dtype.size for v in variables)


def _resident() -> int:
    """Returns the bytes of this process in memory, without those that nothing uses."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return _status("VmRSS")


def _status(name: str) -> int:
    """Returns a size of this process, in bytes."""
    text = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
    match = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    assert match is not None, name
    return 1024 * int(match[1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["measure", "plan"])
    parser.add_argument("--mesh", default="sequence:1")
    parser.add_argument("--layout", default="length:sequence")
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--d_model", type=int, default=512)
    parser.add_argument("--num_heads", type=int, default=8)
    parser.add_argument("--num_layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--programs", help="of plan: where TensorFlow writes programs")
    parser.add_argument("--result", help="a file; without it the result is printed")
    parser.add_argument("--num_processes", type=int, default=1)
    parser.add_argument("--process_id", type=int, default=0)
    parser.add_argument("--coordinator", default="")
    parser.add_argument("--join_secs", type=float, default=60.0)
    arguments = parser.parse_args()
    end_with_launcher()
    processes.join(
        arguments.num_processes,
        arguments.process_id,
        arguments.coordinator,
        timeouts=processes.Timeouts(join_secs=arguments.join_secs),
    )
    what = plan if arguments.what == "plan" else measure
    text = json.dumps(processes.gather(what(arguments)))
    if processes.is_first():
        if arguments.result:
            pathlib.Path(arguments.result).write_text(text, encoding="utf-8")
        else:
            print(text, flush=True)
    processes.leave()


if __name__ == "__main__":
    main()
