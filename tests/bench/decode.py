"""`bin/bench decode`: greedy decoding and beam search against a hand-written search.

An encoder-decoder, and a language model that continues prompts, both decoded to the full length.
All subjects have the same weights: the sums of the best ids, in "first_loss", must agree in
float32. The encoder-decoder is also compared with CTranslate2 if that is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os

from tests.bench.alternate import Subject, alternate, report
from tests.bench.decode_configs import CONFIGS, add_sizes, sizes

HANDWRITTEN, MTFRUN = "tests.bench.handwritten_decode", "tests.bench.mtfrun_decode"
CTRANSLATE2 = "tests.bench.ctranslate2_decode"
HANDWRITTEN_LM, MTFRUN_LM = "tests.bench.handwritten_prompts", "tests.bench.mtfrun_prompts"
PROMPTS = (16, 192)
# Parts of a batch that are decoded concurrently, as `mtfrun decode` does with batches.
PARTS = 2


def main() -> None:
    """Runs the comparisons and prints a JSON line per subject."""
    parser = argparse.ArgumentParser(prog="bin/bench decode", description=__doc__)
    add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="batches a subject decodes in a round")
    parser.add_argument("--cores", type=int, help="number of cores; by default all")
    parser.add_argument("--only", choices=["greedy", "beam4", "lm"], help="one comparison")
    parser.add_argument("--bfloat16", action="store_true", help="also with bfloat16 activations")
    parser.add_argument(
        "--meshes", action="store_true", help="also with the batch split over two devices"
    )
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
        results = alternate(subjects, rounds=options.rounds, steps=options.steps)
        report(
            "decode",
            f"{options.config} {name} {config.batch}",
            results,
            "handwritten",
            tokens=config.batch * config.targets_length,
            cores=cores,
        )
    if options.only in (None, "lm"):
        for prompt in PROMPTS:
            continue_prompts(options, prompt, cores)


def continue_prompts(options: argparse.Namespace, prompt: int, cores: int) -> None:
    """Compares language models that continue prompts, which they read in one pass or in steps."""
    flags = [f"--config={options.config}", f"--prompt={prompt}"]
    subjects = [
        Subject("handwritten", HANDWRITTEN_LM, flags),
        Subject("mtfrun", MTFRUN_LM, flags),
        Subject("mtfrun step by step", MTFRUN_LM, [*flags, "--step_by_step"]),
    ]
    if options.meshes:
        subjects.append(Subject("mtfrun data:2", MTFRUN_LM, [*flags, "--mesh=data:2,model:1"]))
    config = CONFIGS[options.config]
    report(
        "decode",
        f"{options.config} lm {prompt}",
        alternate(subjects, rounds=options.rounds, steps=options.steps),
        "handwritten",
        tokens=config.batch * config.targets_length,
        cores=cores,
    )


if __name__ == "__main__":
    main()
