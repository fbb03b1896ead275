from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtfrun import processes
from mtfrun.cli.command import (
    RUN_HELP,
    Command,
    add_inference_flags,
    add_output_flags,
    check_inference,
    check_names,
    check_run,
    inference_settings,
)
from mtfrun.cli.process_flags import add_process_flags, check_processes
from mtfrun.display import progress
from mtfrun.errors import InputError

if TYPE_CHECKING:
    from mtfrun.experiment import Inference

_DESCRIPTION = (
    """\
Continues or answers prompts, or classifies images: one JSON object each, in order.

  mtfrun decode --model_dir=/tmp/run --prompt="The " --prompt="If "
  mtfrun decode --model_dir=/tmp/run --input=prompts.txt --output=answers.jsonl
  mtfrun decode --model_dir=/tmp/run --prompt="The " --temperature=0.8 --top_p=0.9 --seed=1
  mtfrun decode --model_dir=/tmp/run --prompt="The " --temperature=0.8 --num_outputs=4
  mtfrun decode --model_dir=/tmp/run --input=prompts.jsonl --beam_size=4 --num_outputs=4
  mtfrun decode --model_dir=/tmp/run --interactive

A file has one prompt a line: in .tsv files the first column, in .jsonl files {"input": ...}, in
.csv files the column called "input" in the first line. .gz, .bz2, .xz and .zst are decompressed.
--input=split:validation decodes the inputs of a split of the configured data, and prints targets.

A classifier of images takes PNG and JPEG files, or a split of its data:

  mtfrun decode --model_dir=/tmp/digits --input=photo.png --top_k=3
  mtfrun decode --model_dir=/tmp/digits --input=photos --output=labels.jsonl
  mtfrun decode --model_dir=/tmp/digits --input='photos/**/*.png,more.jpg,list.txt'
  mtfrun decode --model_dir=/tmp/digits --input=split:test --output=labels.jsonl

photos is a folder, list.txt has a path in each line. Images of another size than the model's are
scaled to cover it, and cropped at the centre.

"""
    + RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--input",
        help="a file with a prompt a line; - is standard input; or images, or split:NAME",
        metavar="FILE",
    )
    add("--prompt", action="append", default=[], help="a prompt; repeatable", metavar="TEXT")
    add("--interactive", action="store_true", help="read prompts from the terminal, one by one")
    add_output_flags(parser)
    add(
        "--format",
        default="jsonl",
        choices=("jsonl", "text"),
        help="text: only outputs, with control characters escaped; for image files the name, a tab "
        "and the label",
    )
    add_inference_flags(parser)
    add_process_flags(parser)


def _check(flags: argparse.Namespace) -> None:
    check_processes(flags)
    check_run(flags, "latest", "best")
    check_names(flags, "input", "output")
    check_inference(flags)
    sources = [bool(flags.prompt), flags.input is not None, flags.interactive]
    if sum(sources) != 1:
        raise InputError(
            "decode needs prompts: either --prompt=TEXT or --input=FILE or --interactive"
        )
    if flags.interactive and flags.output != "-":
        raise InputError("--interactive answers on the terminal: leave --output out")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.inputs import InputSource
    from mtfrun.cli.trained_run import as_text, json_line, open_output, open_run
    from mtfrun.experiment.runs.opening import restore_model

    run, built = open_run(flags, command)
    inference = built.experiment.inference.with_settings(inference_settings(flags))
    prompts = [os.fsencode(prompt) for prompt in flags.prompt]
    inputs = inference.read(InputSource(flags.input, prompts))
    step = restore_model(built, run, flags.checkpoint)
    if flags.interactive:
        _converse(inference)
        return 0
    truncated = 0
    with open_output(flags.output) as file:
        for record in inference.records(inputs):
            truncated += bool(record.fields.get("truncated_tokens"))
            if flags.format == "text":
                file.write("".join(map(as_text, record.texts)))
            else:
                file.write(json_line(record, step))
    if truncated:
        line = progress.warning(
            f"{truncated} prompt(s) have more tokens than the model reads: some "
            "of them were cut off; truncated_tokens in the output counts them"
        )
        progress.note(line)
    return 0


def _converse(inference: Inference) -> None:
    """Answers lines of standard input; the programs stay compiled."""
    from mtfrun.cli.inputs import InputSource, agreed_bytes, standard_input
    from mtfrun.cli.trained_run import as_text

    while True:
        if processes.is_first():
            print("> ", end="", file=sys.stderr, flush=True)
        line = agreed_bytes(lambda: standard_input().readline())
        if not line:
            return
        source = InputSource(prompts=[line.removesuffix(b"\n").removesuffix(b"\r")])
        (record,) = inference.records(inference.read(source))
        for output in record.texts if processes.is_first() else ():
            print(as_text(output), end="", flush=True)


COMMANDS = [Command("decode", _DESCRIPTION, run, _add_flags, _check)]
