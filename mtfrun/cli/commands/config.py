"""Commands that show configurations: `config show`, `config diff` and `config explain`."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtfrun.cli import command as cli
from mtfrun.configuration import files as gin_files
from mtfrun.display.formats import WIDTH, wrap_lines
from mtfrun.display.streams import print_lines
from mtfrun.errors import InputError, did_you_mean, shorten

if TYPE_CHECKING:
    from mtfrun.configuration.explanations import Explanation, Setting

_SHOW = """\
Shows every parameter that a run uses: its value, what has set it, its default, its meaning.

  mtfrun config show
  mtfrun config show moe digits
  mtfrun config show --gin_file=runs/quickstart.gin
  mtfrun config show --model_dir=/tmp/run --gin.TRAIN_STEPS=100
  mtfrun config show --gin_file=runs/quickstart.gin clip learning_rate

It is written as in a gin file. Behind # stand the file and line, or the flag, that has set a value,
its macro, and the default. Words select parameters by name, macro, class or description. One can
also set parameters that no file names: --gin.TrainOptions.clip_norm=1.0.

Without --gin_file and --model_dir it lists the gin files of the package by folder, with the first
line of each; words select files by name or description."""


def _is_list(flags: argparse.Namespace) -> bool:
    return not flags.gin_file and flags.model_dir is None


def _check_show(flags: argparse.Namespace) -> None:
    for word in flags.words:
        if word.endswith(".gin") or "/" in word:
            raise InputError(f"{word} is not a word to look for: write --gin_file or --model_dir")
    if flags.bindings and _is_list(flags):
        raise InputError("config show needs a configuration: --gin_file=runs/quickstart.gin")


def _run_show(flags: argparse.Namespace, _: Sequence[str]) -> int:
    items: dict[str, Any]  # by the text that words are looked for in
    if _is_list(flags):
        headers = list(gin_files.shipped_headers().values())
        items = {f"{header.name} {header.description}": header for header in headers}
        names = [word for header in headers for word in (header.name, header.name.split("/")[-1])]
    else:
        settings = _settings(flags, None if flags.gin_file else flags.model_dir)
        items = {" ".join((f"{x.owner}.{x.name}", *x.macros, x.doc)): x for x in settings}
        names = list(dict.fromkeys(setting.name for setting in settings))
    words = [word.lower() for word in flags.words]
    chosen = [
        item
        for text, item in items.items()
        if not words or any(word in text.lower() for word in words)
    ]
    if not chosen:
        hint = did_you_mean(flags.words[0], names) or "; without words config show lists all"
        raise InputError(f"nothing has {' or '.join(flags.words)!r}{hint}")
    if flags.json:
        print(json.dumps([dataclasses.asdict(item) for item in chosen], indent=1))
    else:
        print_lines(*(_header_lines if _is_list(flags) else _settings_lines)(chosen))
    return 0


def _header_lines(headers: Sequence[gin_files.GinHeader]) -> list[str]:
    width = max(len(header.name) for header in headers) + 2
    lines = []
    for folder, files in itertools.groupby(headers, key=lambda h: h.name.rpartition("/")[0]):
        lines += ["", f"{folder}/" if folder else "of every run"]
        for header in files:
            first, other = f"  {header.name:<{width}}", " " * (width + 2)
            lines += wrap_lines(header.title, first=first, other=other)
    return [*lines[1:], "", "mtfrun config show --gin_file=FILE shows all settings of a run."]


def _settings(flags: argparse.Namespace, model_dir: str | None, *files: str) -> list[Setting]:
    """Returns the settings of a run, or of the flags' gin files and further ones."""
    from mtfrun.configuration import config
    from mtfrun.configuration.explanations import settings_in_use
    from mtfrun.experiment.runs.opening import ROOTS, Settings
    from mtfrun.rundir import RunDirectory

    path = None if model_dir is None else RunDirectory(model_dir).require_config()
    settings = dataclasses.replace(Settings.of_flags(flags), files=[*flags.gin_file, *files])
    with config.exclusive():
        return settings_in_use(settings.parse(path), ROOTS)


def _settings_lines(settings: Iterable[Setting]) -> list[str]:
    lines: list[str] = []
    for owner, group in itertools.groupby(settings, key=lambda setting: setting.owner):
        lines += ["", f"{owner}:"]
        for setting in group:
            value = f"    {setting.name} = {setting.value}"
            source = "default" if setting.place is None else setting.place
            if setting.value is None:
                value, source = f"    # {setting.name} is given by the program", ""
            if setting.macros:
                source += f" ({', '.join(setting.macros)})"
            if setting.place and setting.default not in (None, setting.value):
                source += f"; default {setting.default}"
            together = f"{value}  # {source}" if source else value
            if len(together) <= WIDTH:
                lines.append(together)
            else:
                lines += [shorten(value, WIDTH), *wrap_lines(source, first="        # ")]
            if setting.doc:
                first_sentence = re.split(r"[.;](?= |$)", setting.doc, maxsplit=1)[0]
                lines += wrap_lines(first_sentence, first="        # ")
    return lines[1:]


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
        example = "mtfrun config diff runs/quickstart.gin /tmp/run"
        raise InputError(f"config diff needs two configurations: {example}")


def _run_diff(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.errors.differences import changes

    values = []
    for word in flags.words:
        is_run = (
            gin_files.find_gin_file(word, flags.gin_search_paths) is None and Path(word).is_dir()
        )
        settings = _settings(flags, word) if is_run else _settings(flags, None, word)
        values.append({(setting.owner, setting.name): setting.value for setting in settings})
    differences = [(*d.path[0], d.old, d.new) for d in changes(*values)]
    if flags.json:
        fields = ("owner", "name", "a", "b")
        records = [dict(zip(fields, difference, strict=True)) for difference in differences]
        first, second = flags.words
        print(json.dumps({"a": first, "b": second, "differences": records}, indent=1))
    elif differences:
        owners = [{owner for owner, _ in settings} for settings in values]
        print_lines(*_difference_lines(differences, flags.words, owners))
    else:
        print("the settings are the same")
    return 0


def _difference_lines(
    differences: Sequence[tuple[str, str, str | None, str | None]],
    names: Sequence[str],
    owners: Sequence[set[str]],
) -> list[str]:
    lines = [f"- {names[0]}", f"+ {names[1]}"]
    shared = sorted((d for d in differences if d[0] in owners[0] & owners[1]), key=itemgetter(0))
    for owner, group in itertools.groupby(shared, key=itemgetter(0)):
        lines += ["", f"{owner}:"]
        for _, name, *both in group:
            lines += [
                shorten(f"{s}   {name} = {v}", WIDTH) for s, v in zip("-+", both, strict=True)
            ]
    for sign, alone in (("-", owners[0] - owners[1]), ("+", owners[1] - owners[0])):
        if alone:
            text = ", ".join(sorted(alone))
            lines += ["", *wrap_lines(text, first=f"{sign} uses ", other="    ")]
    return lines


_EXPLAIN = """\
Explains a macro, a class, a function, a parameter, or a gin file of the package.

  mtfrun config explain TRAIN_STEPS
  mtfrun config explain optim.Adafactor
  mtfrun config explain TrainOptions.clip_norm
  mtfrun config explain models/moe_1d_tiny.gin

It prints the whole docstring, the defaults, and where the files of the package set it; of a gin
file its header: its purpose, cost and result, and the macros that are commonly overridden."""


def _check_explain(flags: argparse.Namespace) -> None:
    if len(flags.words) != 1:
        raise InputError("config explain needs one name: mtfrun config explain TRAIN_STEPS")
    (word,) = flags.words
    if word not in gin_files.shipped_gin_files() and gin_files.find_gin_file(word) is not None:
        raise InputError(f"{word} is a gin file: write mtfrun config show --gin_file={word}")
    if word.endswith(".gin"):
        gin_files.require_gin_file(word)


def _run_explain(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun import experiment  # noqa: F401 - its classes are explained
    from mtfrun.configuration.explanations import explain

    explanations = explain(flags.words[0].lstrip("@%").removesuffix("()"))
    if flags.json:
        print(json.dumps([explanation._asdict() for explanation in explanations], indent=1))
    else:
        print("\n\n".join("\n".join(_lines(explanation)) for explanation in explanations))
    return 0


def _lines(explanation: Explanation) -> list[str]:
    lines = [f"{explanation.name} ({explanation.kind})"]
    if explanation.kind in ("class", "function"):
        lines.append(textwrap.indent(explanation.text, "    "))
    else:
        for line in explanation.text.splitlines():
            lines += wrap_lines(line, first="    ")
    if explanation.default is not None:
        lines += wrap_lines(explanation.default, first="  default: ", other="    ")
    if explanation.parameters:
        lines.append("  defaults:")
        for name, (default, meaning) in explanation.parameters.items():
            text = "none, it must be given" if default is None else default
            lines += wrap_lines(f"{name} = {text}", first="    ", other="      ")
            # The constructor's docstring is not part of the class's docstring.
            if meaning and f"{name}:" not in explanation.text:
                lines += wrap_lines(meaning, first="        ")
    for title, items in (("used by", explanation.used_by), ("set by", explanation.set_by)):
        if items:
            lines.append(f"  {title}:")
            for item in items:
                lines += wrap_lines(item, first="    ", other="      ")
    return lines


COMMANDS = [
    cli.Command(
        "config show",
        _SHOW,
        _run_show,
        cli.add_json,
        _check_show,
        imports_tensorflow=lambda flags: not _is_list(flags),
        words="[WORD ...]",
        model_dir="run",
    ),
    cli.Command("config diff", _DIFF, _run_diff, cli.add_json, _check_diff, words="CONFIG CONFIG"),
    cli.Command(
        "config explain",
        _EXPLAIN,
        _run_explain,
        cli.add_json,
        _check_explain,
        subject="nothing",
        words="NAME",
    ),
]
