"""`bin/bench decode`: greedy decoding and beam search against a hand-written search.

An encoder-decoder, and a language model that continues prompts, both decoded to the full length.
All subjects have the same weights: the sums of the best ids, in "first_loss", must agree in
float32. The encoder-decoder is also compared with CTranslate2 if that is installed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import zlib

import numpy as np

from tests.bench.alternate import Subject, add_rounds, compare
from tests.bench.train import Sizes

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_decode", "tests.bench.mtfrun_decode"
CTRANSLATE2 = "tests.bench.ctranslate2_decode"
MTFRUN_LM = "tests.bench.mtfrun_prompts"
PROMPTS = (16, 192)
# Parts of a batch that are decoded concurrently, as `mtfrun decode` does with batches.
PARTS = 2


@dataclasses.dataclass(frozen=True)
class DecodeConfig(Sizes):
    batch: int = 16
    inputs_length: int = 64
    targets_length: int = 64  # ids that are decoded


CONFIGS = {
    "tiny": DecodeConfig(32, 64, 2, 2, 64, batch=4, inputs_length=16, targets_length=32),
    "small": DecodeConfig(256, 1024, 4, 4, 8192),
    "medium": DecodeConfig(512, 2048, 6, 8, 32128),
}
ALPHA = 0.6
# Not an id, so that every search continues to the full length.
NO_END = -1


def add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--batch", type=int, help="sequences; by default the configuration's")


def sizes(arguments: argparse.Namespace) -> DecodeConfig:
    config = CONFIGS[arguments.config]
    return dataclasses.replace(config, batch=arguments.batch or config.batch)


def weight(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the value of a variable by mtfrun's name and shape, the same in every process."""
    name = path.rpartition("/")[2]
    if name == "scale":
        return np.ones(shape, np.float32)
    fan_in = int(np.prod(shape[:-1])) if name == "output" else shape[0]
    stddev = 1.0 if "embedding" in path or "position" in path else fan_in**-0.5
    if name == "query":
        stddev *= shape[-1] ** -0.5
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return (rng.standard_normal(shape) * stddev).astype(np.float32)


def prompts(config: DecodeConfig, length: int) -> np.ndarray:
    """Returns ids, int32 [batch, length], none of them padding."""
    rng = np.random.default_rng(1)
    return rng.integers(2, config.vocabulary, [config.batch, length]).astype(np.int32)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench decode", description=__doc__)
    add_sizes(parser)
    add_rounds(parser, steps=3)
    parser.add_argument("--cores", type=int, help="number of cores; by default all")
    parser.add_argument("--only", choices=["greedy", "beam4", "lm"], help="one comparison")
    parser.add_argument("--bfloat16", action="store_true", help="also with bfloat16 activations")
    parser.add_argument("--meshes", action="store_true", help="also on two devices")
    options = parser.parse_args()
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    cores = len(os.sched_getaffinity(0))
    config = sizes(options)
    for name, beam in (("greedy", 1), ("beam4", 4)):
        if options.only not in (None, name):
            continue
        flags = [f"--config={options.config}", f"--batch={config.batch}", f"--beam={beam}"]
        programs = [("mtfrun", MTFRUN)]
        if importlib.util.find_spec("ctranslate2"):
            programs.append(("ctranslate2", CTRANSLATE2))
        subjects = [Subject("handwritten", HANDWRITTEN, flags)]
        subjects += [Subject(who, module, flags) for who, module in programs]
        if cores >= PARTS and config.batch % PARTS == 0:
            in_parts = [*flags, f"--parts={PARTS}"]
            subjects += [Subject(f"{who} in parts", module, in_parts) for who, module in programs]
        if options.bfloat16:
            subjects.append(Subject("mtfrun bfloat16", MTFRUN, [*flags, "--activation=bfloat16"]))
        if options.meshes:
            subjects.append(Subject("mtfrun data:2", MTFRUN, [*flags, "--mesh=data:2,model:1"]))
        tokens = config.batch * config.targets_length
        label = f"{options.config} {name} {config.batch}"
        compare("decode", label, subjects, options, tokens=tokens, cores=cores)
    if options.only in (None, "lm"):
        for prompt in PROMPTS:
            continue_prompts(options, prompt, cores)


def continue_prompts(options: argparse.Namespace, prompt: int, cores: int) -> None:
    """Compares language models that continue prompts, which they read in one pass or in steps."""
    flags = [f"--config={options.config}", f"--prompt={prompt}"]
    subjects = [
        Subject("handwritten", HANDWRITTEN, flags),
        Subject("mtfrun", MTFRUN_LM, flags),
        Subject("mtfrun step by step", MTFRUN_LM, [*flags, "--step_by_step"]),
    ]
    if options.meshes:
        subjects.append(Subject("mtfrun data:2", MTFRUN_LM, [*flags, "--mesh=data:2,model:1"]))
    config = CONFIGS[options.config]
    tokens, label = config.batch * config.targets_length, f"{options.config} lm {prompt}"
    compare("decode", label, subjects, options, tokens=tokens, cores=cores)


if __name__ == "__main__":
    main()
