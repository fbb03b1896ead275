"""`bin/bench train`: the language model's training step against a hand-written one.

One device, float32 and bfloat16, against hand-written TensorFlow in graph mode and under XLA; then
simulated meshes of two devices, other optimizers, and blocks that store less for the backward pass,
against one device with SGD.
"""

from __future__ import annotations

import argparse
import dataclasses

import numpy as np

from tests.bench.alternate import Subject, add_rounds, compare

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_lm", "tests.bench.mtfrun_lm"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a Transformer; an encoder and a decoder have `num_layers` blocks each."""

    d_model: int
    d_ff: int
    num_layers: int
    num_heads: int
    vocabulary: int

    @property
    def d_kv(self) -> int:
        return self.d_model // self.num_heads


@dataclasses.dataclass(frozen=True)
class LmConfig(Sizes):
    batch: int
    length: int


CONFIGS = {
    "tiny": LmConfig(32, 64, 2, 2, 64, 4, 16),
    "quickstart": LmConfig(128, 512, 3, 4, 384, 8, 128),  # runs/language_model.gin, without gates
    "small": LmConfig(256, 1024, 4, 4, 8192, 8, 128),
    "medium": LmConfig(512, 2048, 6, 8, 32128, 8, 256),
    "deep": LmConfig(256, 1024, 24, 4, 8192, 8, 128),
    "deeper": LmConfig(256, 1024, 48, 4, 8192, 8, 128),
}


def batch(config: LmConfig, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs, targets), int32 [batch, length], the inputs being the targets shifted."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, config.vocabulary, (config.batch, config.length)).astype(np.int32)
    inputs = np.pad(targets[:, :-1], [(0, 0), (1, 0)])
    return inputs, targets


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench train", description=__doc__)
    parser.add_argument("--config", default="small", choices=CONFIGS)
    add_rounds(parser)
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
    comparisons["rematerialise"] = [Subject("mtfrun", MTFRUN, config)]
    comparisons["rematerialise"] += [
        Subject(f"mtfrun, again: {names}", MTFRUN, [*config, f"--rematerialise={names}"])
        for names in ("attention", "dense", "dense,projections", "all")
    ]
    sizes = CONFIGS[options.config]
    for name, subjects in comparisons.items():
        if options.only in (None, name):
            tokens = sizes.batch * sizes.length
            compare("train", f"{options.config} {name}", subjects, options, tokens=tokens)


if __name__ == "__main__":
    main()
