"""The flags of the commands `config ...`, and their help texts."""

from __future__ import annotations

import argparse

from mtfrun.cli.flags.command import Command, command_word
from mtfrun.cli.flags.other_programs import word_answer
from mtfrun.configuration.files import find_gin_file, shipped_gin_files
from mtfrun.errors import InputError

_CONFIG = """\
Looks at configurations. Nothing is built, no data are read, no device is used.

  mtfrun config list                                        the gin files of the package
  mtfrun config show --gin_file=runs/quickstart.gin         all settings of a run
  mtfrun config show --gin_file=runs/quickstart.gin clip    those with a word
  mtfrun config diff runs/quickstart.gin runs/denoise.gin   what differs
  mtfrun config explain TRAIN_STEPS                         a macro, class or parameter"""

_LIST = """\
Lists the gin files of the package by folder, with the first line of each.

  mtfrun config list
  mtfrun config list moe digits
  mtfrun config list --json

Words choose the files whose name or description has one of them."""

_SHOW = """\
Shows every parameter that a run uses: its value, what has set it, its default, its meaning.

  mtfrun config show --gin_file=runs/quickstart.gin
  mtfrun config show --model_dir=/tmp/run --gin.TRAIN_STEPS=100
  mtfrun config show --gin_file=runs/quickstart.gin clip learning_rate
  mtfrun config show --gin_file=runs/quickstart.gin --json

It is written as in a gin file. Behind # stand the file and the line, or the flag, that has set a
value, the macro by way of which it did, and the default. Words choose the parameters in whose name,
macro, class or description one of them occurs. A parameter that no file names can be set too:
--gin.TrainOptions.clip_norm=1.0."""

_DIFF = """\
Shows the settings in which two configurations differ: gin files, or run directories.

  mtfrun config diff runs/quickstart.gin runs/denoise.gin
  mtfrun config diff /tmp/run1 /tmp/run2
  mtfrun config diff runs/quickstart.gin /tmp/run --json
  mtfrun config diff --gin_file=defaults.gin models/lm_small.gin models/lm_base.gin

--gin_file and --gin.NAME=VALUE belong to both: files before A and B, values after them."""

_EXPLAIN = """\
Explains a macro, a class, a function, a parameter, or a gin file of the package.

  mtfrun config explain TRAIN_STEPS
  mtfrun config explain optim.Adafactor
  mtfrun config explain TrainOptions.clip_norm
  mtfrun config explain max_to_keep
  mtfrun config explain models/moe_1d_tiny.gin

It prints the whole docstring, the defaults, and where the files of the package set it; of a gin
file its header: what it is and costs, what was measured, what is commonly overridden."""


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _no_check(_: argparse.Namespace) -> None:
    """Accepts all flags."""


def _check_show(flags: argparse.Namespace) -> None:
    for word in flags.words:
        if word.endswith(".gin") or "/" in word:
            raise InputError(word_answer(word) or f"{word} is no word to look for")
    if not flags.gin_file and flags.model_dir is None:
        raise InputError(
            "config show needs a configuration: --gin_file=runs/quickstart.gin or --model_dir=DIR"
        )


def _check_diff(flags: argparse.Namespace) -> None:
    if flags.model_dir is not None:
        raise InputError("config diff: name run directories without a flag: config diff DIR1 DIR2")
    if len(flags.words) != 2:
        raise InputError(
            f"config diff needs two configurations, not {len(flags.words)}: "
            "mtfrun config diff runs/quickstart.gin /tmp/run"
        )


def _check_explain(flags: argparse.Namespace) -> None:
    if len(flags.words) != 1:
        raise InputError(
            f"config explain needs one name, not {len(flags.words)}: "
            "mtfrun config explain TRAIN_STEPS"
        )
    (word,) = flags.words
    if word not in shipped_gin_files() and find_gin_file(word) is not None:
        raise InputError(f"{word} is a gin file: write mtfrun config show --gin_file={word}")


_MODULE = "mtfrun.cli.config_commands"
CONFIG = (
    command_word("config", _CONFIG, "config list, config show, config diff or config explain"),
    Command(
        "config list",
        _LIST,
        _add_json,
        _no_check,
        f"{_MODULE}.presets:list_presets",
        imports_tensorflow=False,
        is_configured=False,
        is_of_run=False,
        takes_words=True,
    ),
    Command("config show", _SHOW, _add_json, _check_show, f"{_MODULE}.show:show", takes_words=True),
    Command("config diff", _DIFF, _add_json, _check_diff, f"{_MODULE}.diff:diff", takes_words=True),
    Command(
        "config explain",
        _EXPLAIN,
        _add_json,
        _check_explain,
        f"{_MODULE}.explain:explain",
        is_configured=False,
        is_of_run=False,
        takes_words=True,
    ),
)
