from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtfrun.cli import command as cli
from mtfrun.errors import InputError

_DESCRIPTION = (
    """\
Stores a teacher's predictions for all training rows of its run: the likeliest ids of each target.

  mtfrun data logits --model_dir=/tmp/teacher --to=/tmp/logits --top_k=8 --temperature=2

Students learn from these files without the teacher, on rows of the same texts, lengths and
vocabulary, and with the same temperature: --gin_file=teachers/stored_logits.gin. A
target takes 4 bytes for each of the K ids, 6 with a vocabulary of more than 65,536. Rows with
noise, as of span corruption, differ in every epoch and are refused.

"""
    + cli.RUN_HELP
)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", help="the directory to write, which must not exist", path="new directory")
    add("--top_k", type=cli.at_least(1), default=8, help="ids of each target; 8 by default")
    text = "logits are divided by it; 2 by default, as in teachers/stored_logits.gin"
    add("--temperature", type=float, default=2.0, help=text)
    add("--batch_size", type=cli.at_least(1), default=64, help="rows at a time; 64 by default")
    cli.add_checkpoint(parser)


def _check(flags: argparse.Namespace) -> None:
    flags.adapter = None
    cli.check_run(flags, "latest", "best")
    for name, example in (("to", "/tmp/logits"), ("model_dir", "/tmp/teacher")):
        if getattr(flags, name) is None:
            raise InputError(f"data logits needs --{name}={example}")


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.experiment.runs.opening import Settings, build_run, find_trained_run, restore_model
    from mtfrun.extras.distillation.distillation import find_teacher, store_teacher_logits

    run = find_trained_run(flags.model_dir)
    built = build_run(run, Settings.of_flags(flags))
    teacher = find_teacher(run.path, flags.checkpoint)
    restore_model(built, run, teacher.step)
    rows = store_teacher_logits(
        built.experiment,
        teacher,
        flags.to,
        top_k=flags.top_k,
        temperature=flags.temperature,
        batch=flags.batch_size,
    )
    print(f"{rows:,} rows in {flags.to}")
    return 0


COMMANDS = [cli.Command("data logits", _DESCRIPTION, run, _add_flags, _check, model_dir="run")]
