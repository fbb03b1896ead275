"""`bin/bench resnet`: a residual network's training step against a hand-written one.

The later image network of Mesh TensorFlow's users at two sizes, batch 32, and ResNet-20, batch
128, on images of 32 x 32, on one device. The reference is hand-written TensorFlow with its fused
batch norm, of the same type; where PyTorch can be imported, it is measured too.
"""

from __future__ import annotations

import argparse
import importlib.util

from tests.bench.alternate import Subject, alternate, report
from tests.bench.resnet_configs import CONFIGS

TYPES = ("float32", "bfloat16")


def main() -> None:
    """Runs the comparisons and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench resnet", description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, help="one network; by default all")
    parser.add_argument("--only", choices=TYPES, help="one type")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="steps a subject takes in a round")
    options = parser.parse_args()
    names = [options.config] if options.config else [n for n in CONFIGS if "tiny" not in n]
    subjects_of = {"handwritten": "handwritten_resnet", "mtfrun": "mtfrun_resnet"}
    if importlib.util.find_spec("torch"):
        subjects_of["pytorch"] = "torch_resnet"
    for name in names:
        for dtype in [options.only] if options.only else TYPES:
            arguments = ["--config", name, f"--activation={dtype}"]
            subjects = [
                Subject(f"{who} {dtype}", f"tests.bench.{module}", arguments)
                for who, module in subjects_of.items()
            ]
            results = alternate(subjects, rounds=options.rounds, steps=options.steps)
            report("resnet", name, results, subjects[0].name, images=CONFIGS[name].batch)


if __name__ == "__main__":
    main()
