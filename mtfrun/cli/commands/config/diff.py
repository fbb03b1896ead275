from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.cli.commands.config.show import require_config
from mtfrun.cli.shared_flags import add_json, settings_of
from mtfrun.configuration.files import find_gin_file
from mtfrun.display.formats import WIDTH, wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, shorten

if TYPE_CHECKING:
    from mtfrun.configuration.settings_in_use import Setting
    from mtfrun.differences import Change

_DESCRIPTION = """\
Shows the settings in which two configurations differ: gin files, or run directories.

  mtfrun config diff runs/quickstart.gin runs/denoise.gin
  mtfrun config diff /tmp/run1 /tmp/run2
  mtfrun config diff runs/quickstart.gin /tmp/run --json
  mtfrun config diff --gin_file=defaults.gin models/lm_small.gin models/lm_base.gin

--gin_file and --gin.NAME=VALUE belong to both: files before A and B, values after them."""


def _check(flags: argparse.Namespace) -> None:
    if flags.model_dir is not None:
        raise InputError("config diff: name run directories without a flag: config diff DIR1 DIR2")
    if len(flags.words) != 2:
        raise InputError(
            f"config diff needs two configurations, not {len(flags.words)}: "
            "mtfrun config diff runs/quickstart.gin /tmp/run"
        )


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    first, second = (_settings(name, flags) for name in flags.words)
    differences = compare_settings(first, second)
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


def compare_settings(first: Sequence[Setting], second: Sequence[Setting]) -> list[Change]:
    """The path of a change is (class or function, parameter)."""
    from mtfrun.differences import changes

    values: list[dict[str, dict[str, str | None]]] = []
    for settings in (first, second):
        values.append({setting.owner: {} for setting in (*first, *second)})
        for setting in settings:
            values[-1][setting.owner][setting.name] = setting.value
    return changes(*values)


def _settings(name: str, flags: argparse.Namespace) -> list[Setting]:
    from mtfrun.configuration import config
    from mtfrun.configuration.settings_in_use import settings_in_use
    from mtfrun.experiment.runs.settings import ROOTS
    from mtfrun.rundir import RunDirectory

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
    lines = [f"- {names[0]}", f"+ {names[1]}"]
    of_both = [d for d in differences if d.path[0] in owners[0] & owners[1]]
    for owner, of_owner in itertools.groupby(of_both, key=lambda difference: difference.path[0]):
        lines += ["", f"{owner}:"]
        for (_, name), *values in of_owner:
            lines += [
                shorten(f"{s}   {name} = {v}", WIDTH) for s, v in zip("-+", values, strict=True)
            ]
    for sign, alone in (("-", owners[0] - owners[1]), ("+", owners[1] - owners[0])):
        if alone:
            lines += [
                "",
                *wrap_lines(", ".join(sorted(alone)), first=f"{sign} uses ", other="    "),
            ]
    return lines


CONFIG_DIFF = Command("config diff", _DESCRIPTION, add_json, _check, run, takes_words=True)
