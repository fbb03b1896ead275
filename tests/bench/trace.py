"""`bin/bench trace`: the time to trace and compile a deep language model, and of its step.

24 layers, float32, SGD, on one device and on a simulated mesh of 2 x 2, compared with hand-written
TensorFlow. `compile_s` is the time of the first call: tracing, compiling and one step;
`first_step_s` includes the start of Python and the creation of the variables.
"""

from __future__ import annotations

import argparse

from tests.bench.alternate import Subject, alternate, report
from tests.bench.lm_configs import CONFIGS
from tests.bench.train import HANDWRITTEN, MTFRUN


def main() -> None:
    """Runs the comparison and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench trace", description=__doc__)
    parser.add_argument("--config", default="deep", choices=CONFIGS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="steps a subject takes in a round")
    options = parser.parse_args()
    config = ["--config", options.config]
    subjects = [
        Subject("handwritten graph", HANDWRITTEN, config),
        Subject("handwritten xla", HANDWRITTEN, [*config, "--xla"]),
        Subject("mtfrun", MTFRUN, config),
        Subject("mtfrun 2x2", MTFRUN, [*config, "--mesh=data:2,model:2"]),
    ]
    sizes = CONFIGS[options.config]
    report(
        "trace",
        options.config,
        alternate(subjects, rounds=options.rounds, steps=options.steps),
        subjects[0].name,
        tokens=sizes.batch * sizes.length,
    )


if __name__ == "__main__":
    main()
