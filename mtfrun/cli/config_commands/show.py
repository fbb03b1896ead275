"""The command `config show`. Importing this module imports TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence

from mtfrun.cli.config_commands.text import WIDTH, shortened, wrapped
from mtfrun.cli.gin_settings import settings_of
from mtfrun.configuration import config
from mtfrun.configuration.settings_in_use import Setting, first_sentence, settings_in_use
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean
from mtfrun.experiment.runs.build import ROOTS
from mtfrun.rundir import RunDirectory


def show(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Prints the settings of a configuration, or those with one of `flags.words`."""
    del command
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
            f"{hint or '; mtfrun config explain knows settings of others'}"
        )
    if flags.json:
        print(json.dumps([dataclasses.asdict(setting) for setting in chosen], indent=1))
    else:
        print_lines(*_lines(chosen))
    return 0


def require_config(run: RunDirectory) -> str:
    """Returns the path of a run's configuration, after its error if it has none."""
    run.require()
    run.read_config()
    return run.config_path


def _has_a_word(setting: Setting, words: Sequence[str]) -> bool:
    text = " ".join((f"{setting.owner}.{setting.name}", *setting.macros, setting.doc)).lower()
    return not words or any(word.lower() in text for word in words)


def _lines(settings: Iterable[Setting]) -> list[str]:
    """Returns settings as blocks of a gin file, with comments."""
    lines: list[str] = []
    for owner, own in itertools.groupby(settings, key=lambda setting: setting.owner):
        lines += ["", f"{owner}:"]
        for setting in own:
            lines += _setting_lines(setting)
    return lines[1:]


def _setting_lines(setting: Setting) -> list[str]:
    value = f"    {setting.name} = {setting.value}"
    if setting.value is None:
        value = f"    # {setting.name} is given by the program"
    source = _source(setting)
    together = f"{value}  # {source}" if source else value
    if len(together) <= WIDTH:
        lines = [together]
    else:
        lines = [shortened(value), *wrapped(source, first="        # ")]
    if setting.doc:
        lines += wrapped(first_sentence(setting.doc), first="        # ")
    return lines


def _source(setting: Setting) -> str:
    """Returns what has set a value, and the default if it is another one."""
    if setting.value is None:
        return ""
    if setting.place is None:
        return "default"
    by = f" ({', '.join(setting.macros)})" * bool(setting.macros)
    default = ""
    if setting.default is not None and setting.default != setting.value:
        default = f"; default {setting.default}"
    return f"{setting.place}{by}{default}"
