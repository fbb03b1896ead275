from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.cli.other_programs import word_answer
from mtfrun.cli.shared_flags import add_json, settings_of
from mtfrun.display.formats import WIDTH, wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean, shorten

if TYPE_CHECKING:
    from mtfrun.configuration.settings_in_use import Setting
    from mtfrun.rundir import RunDirectory

_DESCRIPTION = """\
Shows every parameter that a run uses: its value, what has set it, its default, its meaning.

  mtfrun config show --gin_file=runs/quickstart.gin
  mtfrun config show --model_dir=/tmp/run --gin.TRAIN_STEPS=100
  mtfrun config show --gin_file=runs/quickstart.gin clip learning_rate
  mtfrun config show --gin_file=runs/quickstart.gin --json

It is written as in a gin file. Behind # stand the file and the line, or the flag, that has set a
value, the macro by way of which it did, and the default. Words choose the parameters in whose name,
macro, class or description one of them occurs. A parameter that no file names can be set too:
--gin.TrainOptions.clip_norm=1.0."""


def _check(flags: argparse.Namespace) -> None:
    for word in flags.words:
        if word.endswith(".gin") or "/" in word:
            raise InputError(word_answer(word) or f"{word} is not a word to look for")
    if not flags.gin_file and flags.model_dir is None:
        raise InputError(
            "config show needs a configuration: --gin_file=runs/quickstart.gin or --model_dir=DIR"
        )


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.configuration import config
    from mtfrun.configuration.settings_in_use import settings_in_use
    from mtfrun.experiment.runs.settings import ROOTS
    from mtfrun.rundir import RunDirectory

    run_config = None
    if not flags.gin_file:
        run_config = require_config(RunDirectory(flags.model_dir))
    with config.exclusive():
        bindings = settings_of(flags).parse(run_config)
        settings = settings_in_use(bindings, ROOTS)
    chosen = [setting for setting in settings if _has_a_word(setting, flags.words)]
    if flags.words and not chosen:
        hint = did_you_mean(flags.words[0], {setting.name for setting in settings})
        raise InputError(
            f"no setting of this configuration has {' or '.join(flags.words)!r}"
            f"{hint or '; mtfrun config explain knows other settings'}"
        )
    if flags.json:
        print(json.dumps([dataclasses.asdict(setting) for setting in chosen], indent=1))
    else:
        print_lines(*_lines(chosen))
    return 0


def require_config(run: RunDirectory) -> str:
    run.require()
    run.read_config()  # for its error
    return run.config_path


def _has_a_word(setting: Setting, words: Sequence[str]) -> bool:
    text = " ".join((f"{setting.owner}.{setting.name}", *setting.macros, setting.doc)).lower()
    return not words or any(word.lower() in text for word in words)


def _lines(settings: Iterable[Setting]) -> list[str]:
    lines: list[str] = []
    for owner, of_owner in itertools.groupby(settings, key=lambda setting: setting.owner):
        lines += ["", f"{owner}:"]
        for setting in of_owner:
            lines += _setting_lines(setting)
    return lines[1:]


def _setting_lines(setting: Setting) -> list[str]:
    from mtfrun.configuration.settings_in_use import first_sentence

    value = f"    {setting.name} = {setting.value}"
    if setting.value is None:
        value = f"    # {setting.name} is given by the program"
    source = _source(setting)
    together = f"{value}  # {source}" if source else value
    if len(together) <= WIDTH:
        lines = [together]
    else:
        lines = [shorten(value, WIDTH), *wrap_lines(source, first="        # ")]
    if setting.doc:
        lines += wrap_lines(first_sentence(setting.doc), first="        # ")
    return lines


def _source(setting: Setting) -> str:
    if setting.value is None:
        return ""
    if setting.place is None:
        return "default"
    by = f" ({', '.join(setting.macros)})" * bool(setting.macros)
    default = ""
    if setting.default is not None and setting.default != setting.value:
        default = f"; default {setting.default}"
    return f"{setting.place}{by}{default}"


CONFIG_SHOW = Command("config show", _DESCRIPTION, add_json, _check, run, takes_words=True)
