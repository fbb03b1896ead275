"""The command `config diff`. Importing this module imports TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from mtfrun.cli.config_commands.show import require_config
from mtfrun.cli.config_commands.text import shortened, wrapped
from mtfrun.cli.gin_settings import settings_of
from mtfrun.configuration import config
from mtfrun.configuration.files import find_gin_file
from mtfrun.configuration.settings_in_use import Setting, settings_in_use
from mtfrun.differences import Change, changes
from mtfrun.display.streams import print_lines
from mtfrun.experiment.runs.build import ROOTS
from mtfrun.rundir import RunDirectory


def diff(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Prints the settings in which the two configurations of `flags.words` differ."""
    del command
    first, second = (_settings(name, flags) for name in flags.words)
    differences = differing(first, second)
    if flags.json:
        names = dict(zip(("a", "b"), flags.words, strict=True))
        records = [
            {"owner": d.path[0], "name": d.path[1], "a": d.old, "b": d.new} for d in differences
        ]
        print(json.dumps({**names, "differences": records}, indent=1))
    elif differences:
        print_lines(*_lines(differences, flags.words, [_owners(first), _owners(second)]))
    else:
        print("the settings are the same")
    return 0


def differing(first: Sequence[Setting], second: Sequence[Setting]) -> list[Change]:
    """Returns the parameters whose values differ; the path is (class or function, parameter)."""
    values: list[dict[str, dict[str, str | None]]] = []
    for settings in (first, second):
        values.append({setting.owner: {} for setting in (*first, *second)})
        for setting in settings:
            values[-1][setting.owner][setting.name] = setting.value
    return changes(*values)


def _settings(name: str, flags: argparse.Namespace) -> list[Setting]:
    """Returns the settings of a gin file or of a run directory."""
    settings = settings_of(flags)
    run_config = None
    if find_gin_file(name, flags.gin_search_paths) is None and Path(name).is_dir():
        run_config = require_config(RunDirectory(name))
    else:
        settings = dataclasses.replace(settings, files=[*settings.files, name])
    with config.exclusive():
        return settings_in_use(settings.parse(run_config), ROOTS)


def _owners(settings: Sequence[Setting]) -> set[str]:
    return {setting.owner for setting in settings}


def _lines(
    differences: Sequence[Change], names: Sequence[str], owners: Sequence[set[str]]
) -> list[str]:
    """Returns the values of both as - and + under their class, then the classes of one alone."""
    lines = [f"- {names[0]}", f"+ {names[1]}"]
    of_both = [d for d in differences if d.path[0] in owners[0] & owners[1]]
    for owner, of_owner in itertools.groupby(of_both, key=lambda difference: difference.path[0]):
        lines += ["", f"{owner}:"]
        for (_, name), *values in of_owner:
            lines += [shortened(f"{s}   {name} = {v}") for s, v in zip("-+", values, strict=True)]
    for sign, alone in (("-", owners[0] - owners[1]), ("+", owners[1] - owners[0])):
        if alone:
            lines += ["", *wrapped(", ".join(sorted(alone)), first=f"{sign} uses ", other="    ")]
    return lines
