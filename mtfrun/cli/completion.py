"""What may stand at the end of a command line, for the completion of shells."""

from __future__ import annotations

import argparse
import os
import pathlib
import shlex
from collections.abc import Iterable, Sequence

from mtfrun.cli.flags.parse import Parser, command_parsers
from mtfrun.cli.flags.shells import SHELLS
from mtfrun.configuration.files import shipped_gin_files

_GIN_FILE = "--gin_file="


def completion(flags: argparse.Namespace, _: Sequence[str]) -> int:
    """Prints the script of a shell, or with --line one candidate a line."""
    if flags.line is None:
        print(SHELLS[flags.shell], end="")
        return 0
    for candidate in candidates(flags.line, command_parsers()):
        print(candidate)
    return 0


def candidates(line: str, parsers: dict[str, Parser]) -> list[str]:
    """Returns the words that the last word of a command line may become, sorted.

    A flag with a value ends with "=", a directory with "/".

    Args:
      line: from the program's name to the cursor.
      parsers: the parsers of all commands by name, some of two words.
    """
    words = _words(line)
    if not words:
        return []
    *before, last = words[1:] or [""]
    if "--" in before:  # of `launch`: a command of its own
        before = before[before.index("--") + 1 :]
    command = _command(before, parsers)
    if command is None:
        return _starting(last, _next_words([x for x in before if not x.startswith("-")], parsers))
    flag, equals, value = last.partition("=")
    if equals:
        return [f"{flag}={x}" for x in _values(f"{flag}=", value, parsers[command])]
    positional = [x for a in parsers[command]._actions if not a.option_strings for x in _choices(a)]
    return _starting(last, [*positional, *_flags(parsers[command])])


def _words(line: str) -> list[str]:
    """Returns the words of a line, the last one empty after a space; none for an open quote."""
    try:
        words = shlex.split(line)
    except ValueError:
        return []
    return [*words, ""] if line[-1:].isspace() else words


def _command(words: Sequence[str], parsers: Iterable[str]) -> str | None:
    """Returns the command that the words name, or None while it is incomplete."""
    names = [word for word in words if not word.startswith("-")]
    for name in (" ".join(names[:2]), *names[:1]):
        if name in parsers and not any(other.startswith(f"{name} ") for other in parsers):
            return name
    return None


def _next_words(names: Sequence[str], parsers: Iterable[str]) -> list[str]:
    """Returns the words that follow `names` in the names of commands."""
    count = len(names)
    split = [name.split() for name in parsers]
    return sorted({x[count] for x in split if x[:count] == list(names) and len(x) > count})


def _flags(parser: Parser) -> list[str]:
    flags = []
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            value = "" if action.nargs == 0 else "="
            flags += [f"{x}{value}" for x in action.option_strings if x.startswith("--")]
    return flags


def _values(flag: str, value: str, parser: Parser) -> list[str]:
    """Returns the values of a flag that begin with `value`."""
    action = parser._option_string_actions.get(flag.removesuffix("="))
    if action is None:
        return []
    known = _choices(action)
    if known:
        return _starting(value, known)
    shipped = shipped_gin_files() if flag == _GIN_FILE else []
    return sorted({*_starting(value, shipped), *_paths(value)})


def _choices(action: argparse.Action) -> list[str]:
    return [str(choice) for choice in action.choices or ()]


def _paths(start: str) -> list[str]:
    """Returns the paths that begin so; hidden ones only after a dot."""
    folder, name = os.path.split(start)
    try:
        entries = list(os.scandir(pathlib.Path(folder or ".").expanduser()))
    except OSError:
        return []
    prefix = start.removesuffix(name)
    return [
        prefix + entry.name + "/" * entry.is_dir()
        for entry in entries
        if entry.name.startswith(name) and (name or not entry.name.startswith("."))
    ]


def _starting(start: str, texts: Iterable[str]) -> list[str]:
    return sorted(text for text in texts if text.startswith(start))
