"""`bin/bench train`: the language model's training step against a hand-written one.

One device, float32 and bfloat16, against hand-written TensorFlow in graph mode and under XLA; then
simulated meshes of two devices, other optimizers, and blocks that store less for the backward pass,
against one device with SGD.
"""

from __future__ import annotations

import argparse

from tests.bench.alternate import Subject, alternate, report
from tests.bench.lm_configs import CONFIGS

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_lm", "tests.bench.mtfrun_lm"


def main() -> None:
    """Runs the comparisons and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench train", description=__doc__)
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps a subject takes in a round")
    parser.add_argument(
        "--only",
        choices=["float32", "bfloat16", "meshes", "optimizers", "rematerialise"],
        help="one comparison",
    )
    options = parser.parse_args()
    config = ["--config", options.config]
    bfloat16 = [*config, "--activation=bfloat16"]
    comparisons = {
        "float32": [
            Subject("handwritten graph", HANDWRITTEN, config),
            Subject("handwritten xla", HANDWRITTEN, [*config, "--xla"]),
            Subject("mtfrun", MTFRUN, config),
        ],
        "bfloat16": [
            Subject("handwritten bfloat16", HANDWRITTEN, bfloat16),
            Subject("mtfrun bfloat16", MTFRUN, bfloat16),
        ],
        "meshes": [
            Subject("mtfrun", MTFRUN, config),
            Subject("mtfrun data:2", MTFRUN, [*config, "--mesh=data:2,model:1"]),
            Subject("mtfrun model:2", MTFRUN, [*config, "--mesh=data:1,model:2"]),
        ],
        "optimizers": [
            Subject("mtfrun", MTFRUN, config),
            Subject("mtfrun adafactor", MTFRUN, [*config, "--optimizer=adafactor"]),
            Subject("mtfrun adam", MTFRUN, [*config, "--optimizer=adam"]),
        ],
    }
    comparisons["rematerialise"] = [
        Subject("mtfrun", MTFRUN, config),
        *(
            Subject(f"mtfrun, again: {names}", MTFRUN, [*config, f"--rematerialise={names}"])
            for names in ("attention", "dense", "dense,projections", "all")
        ),
    ]
    sizes = CONFIGS[options.config]
    for name, subjects in comparisons.items():
        if options.only in (None, name):
            results = alternate(subjects, rounds=options.rounds, steps=options.steps)
            report(
                "train",
                f"{options.config} {name}",
                results,
                subjects[0].name,
                tokens=sizes.batch * sizes.length,
            )


if __name__ == "__main__":
    main()
