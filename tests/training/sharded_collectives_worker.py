"""A program that trains the toy model under layout rules and prints its collectives as JSON.

Started by test_sharded_state.py with the environment that makes DTensor write its programs.
"""

from __future__ import annotations

import json
import os
import pathlib
import sys
from typing import Any

_PASS = "DTensorAllReduceScatterOptimization"
if __name__ == "__main__":
    # Before TensorFlow is imported: the pass that inserts reduce-scatters writes its program too.
    os.environ["MLIR_BRIDGE_LOG_PASS_FILTER"] += f";{_PASS}"

import tensorflow as tf  # noqa: E402

from mtfrun import mtf  # noqa: E402
from mtfrun.extras.plan.dtensor_programs import take_programs  # noqa: E402
from mtfrun.extras.plan.plan import needed_collectives  # noqa: E402
from tests.training.test_sharded_state import Setting, make_state, train  # noqa: E402


def gathers_of_a_loop(folder: str) -> list[int]:
    """Returns how often each gather runs in three rounds that read a variable."""
    mesh = mtf.Mesh("data:2", "weights:data")
    variable = mtf.Variable(mesh, "a:8")
    variable.initialize(seed=0, path="variable")

    @mtf.function
    def rounds(x: mtf.Tensor) -> mtf.Tensor:
        start = [mtf.constant(mesh, 0, dtype=tf.int32), x]
        with mtf.read_once({"variable": variable}):
            return mtf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, x + variable), start)[1]

    take_programs(folder)
    rounds(mtf.zeros(mesh, variable.shape))
    needed = needed_collectives(take_programs(folder)[-1].needed)
    return [times for c, times in needed if c.kind == "all-gather"]


def times_in_a_stack(folder: str) -> dict[str, list[int]]:
    """Returns how often the gathers and scatters of a loop over two blocks run, by kind."""
    setting = Setting("sgd", "transformer in a loop", clip_norm=None)
    state = make_state(setting, "weights:data")
    take_programs(folder)
    train(state, setting, 1)
    needed = needed_collectives(take_programs(folder)[-1].needed)
    over_data = [(c, n) for c, n in needed if "data" in c.axes and len(c.sizes) > 1]
    return {
        kind: sorted(times for c, times in over_data if c.kind == kind)
        for kind in ("all-gather", "reduce-scatter")
    }


def main(folder: str, *names: str) -> None:
    """Prints {case: {kind: [sizes, ...]}}; a case is "optimizer;rule", "a loop" or "a stack".

    Only collectives over the axis `data`; "inserted reduce-scatters" is how many DTensor made.
    """
    by_case: dict[str, dict[str, Any]] = {}
    for name in names:
        if name in ("a loop", "a stack"):
            is_loop = name == "a loop"
            by_case[name] = (
                {"all-gather": gathers_of_a_loop(folder)} if is_loop else times_in_a_stack(folder)
            )
            continue
        optimizer, _, rule = name.partition(";")
        setting = Setting(optimizer)
        state = make_state(setting, rule)
        take_programs(folder)
        train(state, setting, 1)
        inserted = sum(
            file.read_text(encoding="utf-8").count('"tf.DTensorReduceScatter"')
            for file in pathlib.Path(folder).glob(f"dtensor.*.after_{_PASS}.__inference__trace_*")
        )
        program = take_programs(folder)[-1].needed
        over_data = [c for c, _ in needed_collectives(program) if "data" in c.axes]
        by_case[name] = {
            kind: sorted(c.sizes for c in over_data if c.kind == kind)
            for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
        }
        by_case[name]["inserted reduce-scatters"] = inserted
    json.dump(by_case, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
