"""The flags of the command `decode`, and its help text."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command
from mtfrun.cli.flags.inference import add_inference_flags, check_inference
from mtfrun.cli.flags.processes import add_process_flags, check_processes
from mtfrun.cli.flags.run import add_output_flags, check_files, check_run
from mtfrun.errors import InputError

_DESCRIPTION = """\
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

Without --gin_file the configuration is the run's own, --model_dir/config.gin, which may import
mtfrun alone: --gin_allow_imports=my_models names other modules that you trust.
Without --model_dir the model is that of --gin_file, with the values of any checkpoint that training
could start from: --gin.INIT_CHECKPOINT="'/models/t5/model.ckpt-1000'"."""


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
    check_files(flags)
    check_inference(flags)
    sources = [bool(flags.prompt), flags.input is not None, flags.interactive]
    if sum(sources) != 1:
        raise InputError(
            "decode needs prompts: either --prompt=TEXT or --input=FILE or --interactive"
        )
    if flags.interactive and flags.output != "-":
        raise InputError("--interactive answers on the terminal: leave --output out")


DECODE = Command("decode", _DESCRIPTION, _add_flags, _check, "mtfrun.cli.commands:decode")
