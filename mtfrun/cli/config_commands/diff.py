"""The command `config diff`. Importing this module imports TensorFlow."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtfrun.cli.config_commands.show import require_config
from mtfrun.cli.config_commands.text import shortened, wrapped
from mtfrun.cli.gin_settings import settings_of
from mtfrun.cli.terminal.standard_output import print_lines
from mtfrun.configuration import config
from mtfrun.configuration.files import find_gin_file
from mtfrun.configuration.settings_in_use import Setting, settings_in_use
from mtfrun.experiment.runs.build import ROOTS
from mtfrun.rundir import RunDirectory


class Difference(NamedTuple):
    """A parameter that differs.

    Attributes:
      owner: its class or function.
      name: of the parameter.
      values: those of the two configurations; None where it is not used, or given by the program.
    """

    owner: str
    name: str
    values: tuple[str | None, str | None]


def diff(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Prints the settings in which the two configurations of `flags.words` differ."""
    del command
    first, second = (_settings(name, flags) for name in flags.words)
    differences = differing(first, second)
    if flags.json:
        names = dict(zip(("a", "b"), flags.words, strict=True))
        records = [
            {"owner": d.owner, "name": d.name, "a": d.values[0], "b": d.values[1]}
            for d in differences
        ]
        print(json.dumps({**names, "differences": records}, indent=1))
    elif differences:
        print_lines(*_lines(differences, flags.words, [_owners(first), _owners(second)]))
    else:
        print("the settings are the same")
    return 0


def differing(first: Sequence[Setting], second: Sequence[Setting]) -> list[Difference]:
    """Returns the parameters whose values differ, in the order of the first, then the second."""
    values = [{(s.owner, s.name): s.value for s in settings} for settings in (first, second)]
    return [
        Difference(owner, name, (values[0].get((owner, name)), values[1].get((owner, name))))
        for owner, name in dict.fromkeys([*values[0], *values[1]])
        if values[0].get((owner, name)) != values[1].get((owner, name))
    ]


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
    differences: Sequence[Difference], names: Sequence[str], owners: Sequence[set[str]]
) -> list[str]:
    """Returns the values of both as - and + under their class, then the classes of one alone."""
    lines = [f"- {names[0]}", f"+ {names[1]}"]
    of_both = [d for d in differences if d.owner in owners[0] & owners[1]]
    for owner, own in itertools.groupby(of_both, key=lambda difference: difference.owner):
        lines += ["", f"{owner}:"]
        for difference in own:
            for sign, value in zip("-+", difference.values, strict=True):
                lines.append(shortened(f"{sign}   {difference.name} = {value}"))
    for sign, alone in (("-", owners[0] - owners[1]), ("+", owners[1] - owners[0])):
        if alone:
            lines += ["", *wrapped(", ".join(sorted(alone)), first=f"{sign} uses ", other="    ")]
    return lines
