from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli import command as cli
from mtfrun.errors import InputError

_DESCRIPTION = (
    """\
Computes the log-likelihood of targets given inputs: one JSON object a pair, in order.

  mtfrun score --model_dir=/tmp/run --input=pairs.tsv --output=scores.jsonl

A line is an input, a tab and a target, or in .jsonl files {"input": ..., "target": ...}; .csv files
have columns called "input" and "target" in the first line. --input=split:validation scores the
pairs of a split of the configured data, or its texts.

The end of a target counts as a token of it; --without_end leaves it out.

"""
    + cli.RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    text = "a file of pairs; - is standard input; or split:NAME of the data"
    parser.add_argument("--input", help=text, path="input")
    text = "score targets without the token that ends them"
    parser.add_argument("--without_end", action="store_true", help=text)
    cli.add_output(parser, default="-")
    cli.add_checkpoint(parser)
    cli.add_adapter(parser)


def _check(flags: argparse.Namespace) -> None:
    cli.check_run(flags, "latest", "best")
    if flags.input is None:
        raise InputError("score needs pairs: --input=FILE")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.inputs_and_outputs import (
        InputSource,
        json_line,
        open_output,
        open_run,
        read_pairs,
    )
    from mtfrun.experiment.runs.opening import restore_model

    split = InputSource(flags.input).split
    pairs: Sequence[tuple[bytes, bytes]] = read_pairs(flags.input) if split is None else ()
    run, built = open_run(flags, command)
    inference = built.experiment.inference
    if split is not None:
        pairs = inference.pairs(split)
    step = restore_model(built, run, flags.checkpoint, flags.adapter)
    with open_output(flags.output) as file:
        for record in inference.scores(pairs, with_end=not flags.without_end):
            file.write(json_line(record, step))
    return 0


COMMANDS = [
    cli.Command(
        "score",
        _DESCRIPTION,
        run,
        _add_flags,
        _check,
        prints_texts=True,
        model_dir="run",
        several_processes=True,
    )
]
