"""What the command line knows of a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from mtfrun.cli.errors import UsageError


class Command(NamedTuple):
    """A command: its name, its help text and its flags.

    Attributes:
      name: one word, or two such as "data show".
      description: the help text; its first line is shown in the list of commands.
      add_flags: adds the flags that are its own to a parser.
      check: raises UsageError for values of flags that cannot be used.
      is_configured: whether gin files and their flags are for this command itself; if not they are
        not in its help text.
    """

    name: str
    description: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.Namespace], None]
    is_configured: bool = True


def no_flags(parser: argparse.ArgumentParser) -> None:
    """Adds no flags."""
    del parser


def needs_command(commands: str) -> Callable[[argparse.Namespace], NoReturn]:
    """Returns the `check` of a word that alone is no command; `commands` names those that are."""

    def check(flags: argparse.Namespace) -> NoReturn:
        raise UsageError(f"{flags.command} needs a command: {commands}")

    return check
