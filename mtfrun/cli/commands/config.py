"""Commands that show configurations: `config list`, `config show` and `config diff`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command, add_json, require_configuration, run_config, settings_of
from mtfrun.configuration.files import GinHeader, find_gin_file, shipped_headers
from mtfrun.display.formats import WIDTH, wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean, shorten

if TYPE_CHECKING:
    from mtfrun.configuration.settings_in_use import Setting
    from mtfrun.errors.differences import Change

_LIST = """\
Lists the gin files of the package by folder, with the first line of each.

  mtfrun config list
  mtfrun config list moe digits
  mtfrun config list --json

Words choose the files whose name or description has one of them."""


def _run_list(flags: argparse.Namespace, _: Sequence[str]) -> int:
    headers = [
        header
        for header in shipped_headers().values()
        if _has_a_word(f"{header.name} {header.description}", flags.words)
    ]
    if not headers:
        names = [word for name in shipped_headers() for word in (name, name.split("/")[-1])]
        hint = did_you_mean(flags.words[0], names) or "; mtfrun config list lists all"
        raise InputError(f"no gin file of the package has {' or '.join(flags.words)!r}{hint}")
    if flags.json:
        print(json.dumps([dataclasses.asdict(header) for header in headers], indent=1))
        return 0
    print_lines(*_header_lines(headers))
    return 0


def _has_a_word(text: str, words: Sequence[str]) -> bool:
    return not words or any(word.lower() in text.lower() for word in words)


def _header_lines(headers: Sequence[GinHeader]) -> list[str]:
    width = max(len(header.name) for header in headers) + 2
    lines = []
    for folder, files in itertools.groupby(headers, key=lambda h: h.name.rpartition("/")[0]):
        lines += ["", f"{folder}/" if folder else "of every run"]
        for header in files:
            lines += wrap_lines(
                header.title, first=f"  {header.name:<{width}}", other=" " * (width + 2)
            )
    return [*lines[1:], "", "mtfrun config show --gin_file=FILE shows all settings of a run."]


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


def _check_show(flags: argparse.Namespace) -> None:
    for word in flags.words:
        if word.endswith(".gin") or "/" in word:
            raise InputError(f"{word} is not a word to look for: write --gin_file or --model_dir")
    require_configuration(flags)


def _run_show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    settings = _settings(flags, None if flags.gin_file else flags.model_dir)
    chosen = [setting for setting in settings if _has_a_word(_text_to_search(setting), flags.words)]
    if flags.words and not chosen:
        hint = did_you_mean(flags.words[0], {setting.name for setting in settings})
        raise InputError(
            f"no setting of this configuration has {' or '.join(flags.words)!r}"
            f"{hint or '; mtfrun config explain knows other settings'}"
        )
    if flags.json:
        print(json.dumps([dataclasses.asdict(setting) for setting in chosen], indent=1))
    else:
        print_lines(*_settings_lines(chosen))
    return 0


def _settings(flags: argparse.Namespace, model_dir: str | None, *files: str) -> list[Setting]:
    """Returns the settings of a run, or of the flags' gin files and further ones."""
    from mtfrun.configuration import config
    from mtfrun.configuration.settings_in_use import settings_in_use
    from mtfrun.experiment.runs.settings import ROOTS

    settings = dataclasses.replace(settings_of(flags), files=[*flags.gin_file, *files])
    with config.exclusive():
        bindings = settings.parse(None if model_dir is None else run_config(model_dir))
        return settings_in_use(bindings, ROOTS)


def _text_to_search(setting: Setting) -> str:
    return " ".join((f"{setting.owner}.{setting.name}", *setting.macros, setting.doc))


def _settings_lines(settings: Iterable[Setting]) -> list[str]:
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


_DIFF = """\
Shows the settings in which two configurations differ: gin files, or run directories.

  mtfrun config diff runs/quickstart.gin runs/denoise.gin
  mtfrun config diff /tmp/run1 /tmp/run2
  mtfrun config diff runs/quickstart.gin /tmp/run --json
  mtfrun config diff --gin_file=defaults.gin models/lm_small.gin models/lm_base.gin

--gin_file and --gin.NAME=VALUE belong to both: files before A and B, values after them."""


def _check_diff(flags: argparse.Namespace) -> None:
    if flags.model_dir is not None:
        raise InputError("config diff: name run directories without a flag: config diff DIR1 DIR2")
    if len(flags.words) != 2:
        raise InputError(
            f"config diff needs two configurations, not {len(flags.words)}: "
            "mtfrun config diff runs/quickstart.gin /tmp/run"
        )


def _run_diff(flags: argparse.Namespace, _: Sequence[str]) -> int:
    def settings_of_word(word: str) -> list[Setting]:
        is_run = find_gin_file(word, flags.gin_search_paths) is None and Path(word).is_dir()
        return _settings(flags, word) if is_run else _settings(flags, None, word)

    first, second = map(settings_of_word, flags.words)
    differences = compare_settings(first, second)
    if flags.json:
        names = dict(zip(("a", "b"), flags.words, strict=True))
        records = [
            {"owner": d.path[0], "name": d.path[1], "a": d.old, "b": d.new} for d in differences
        ]
        print(json.dumps({**names, "differences": records}, indent=1))
    elif differences:
        owners = [{setting.owner for setting in settings} for settings in (first, second)]
        print_lines(*_difference_lines(differences, flags.words, owners))
    else:
        print("the settings are the same")
    return 0


def compare_settings(first: Sequence[Setting], second: Sequence[Setting]) -> list[Change]:
    """The path of a change is (class or function, parameter)."""
    from mtfrun.errors.differences import changes

    values: list[dict[str, dict[str, str | None]]] = []
    for settings in (first, second):
        values.append({setting.owner: {} for setting in (*first, *second)})
        for setting in settings:
            values[-1][setting.owner][setting.name] = setting.value
    return changes(*values)


def _difference_lines(
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


COMMANDS = [
    Command(
        "config list",
        _LIST,
        _run_list,
        add_json,
        imports_tensorflow=False,
        subject="nothing",
        words="[WORD ...]",
    ),
    Command(
        "config show", _SHOW, _run_show, add_json, _check_show, words="[WORD ...]", model_dir="run"
    ),
    Command("config diff", _DIFF, _run_diff, add_json, _check_diff, words="CONFIG CONFIG"),
]
