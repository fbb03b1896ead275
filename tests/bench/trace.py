"""`bin/bench trace`: the time to trace and compile a deep language model, and of its step.

24 layers (48 with `--config=deeper`), float32, on one device and on a simulated mesh of 2 x 2, with
Adafactor or another optimizer: unrolled, unrolled and rematerialised, and in a loop over groups of
blocks, which rematerialises as well. With SGD also hand-written TensorFlow. `compile_s` is the time
of the first call: tracing, compiling and one step; `first_step_s` includes the start of Python and
the creation of the variables. Ratios are to the first subject. All subjects compile at once: run
one alone with `--only` for the time that it takes to compile.
"""

from __future__ import annotations

import argparse

from tests.bench.alternate import Subject, add_rounds, compare
from tests.bench.train import CONFIGS, HANDWRITTEN, MTFRUN


def _subjects(options: argparse.Namespace) -> list[Subject]:
    config = ["--config", options.config]
    kinds = {
        "": [],
        " rematerialised": ["--rematerialise=all"],
        " in a loop": [f"--scan_blocks={options.scan_blocks}"],
    }
    meshes = {"": [], " 2x2": ["--mesh=data:2,model:2"]}
    subjects = [
        Subject(
            f"mtfrun{mesh}{kind}",
            MTFRUN,
            [*config, f"--optimizer={options.optimizer}", *on_mesh, *settings],
        )
        for mesh, on_mesh in meshes.items()
        for kind, settings in kinds.items()
    ]
    if options.optimizer == "sgd":
        subjects = [
            Subject("handwritten graph", HANDWRITTEN, config),
            Subject("handwritten xla", HANDWRITTEN, [*config, "--xla"]),
            *subjects,
        ]
    return subjects


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench trace", description=__doc__)
    parser.add_argument("--config", default="deep", choices=CONFIGS)
    parser.add_argument("--optimizer", default="adafactor", choices=["adafactor", "adam", "sgd"])
    parser.add_argument("--scan_blocks", type=int, default=4, help="blocks in the loop's body")
    parser.add_argument("--only", nargs="+", help="subjects to run, such as 'mtfrun 2x2'")
    add_rounds(parser, rounds=3, steps=3)
    options = parser.parse_args()
    subjects = [s for s in _subjects(options) if not options.only or s.name in options.only]
    sizes = CONFIGS[options.config]
    compare("trace", options.config, subjects, options, tokens=sizes.batch * sizes.length)


if __name__ == "__main__":
    main()
