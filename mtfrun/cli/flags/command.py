"""What the command line knows of a command."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from mtfrun.errors import InputError

# Called with the flags, and the words as they were typed, the program first; returns the exit code.
Function = Callable[[argparse.Namespace, Sequence[str]], int]


class Command(NamedTuple):
    """A command: its name, its help text, its flags, and what it does.

    Attributes:
      name: one word, or two such as "data show".
      description: the help text; its first line is shown in the list of commands.
      add_flags: adds the flags that are its own to a parser.
      check: raises InputError for values of flags that cannot be used.
      function: "module:name" of its `Function`, a name because many modules import TensorFlow.
      imports_tensorflow: whether its modules do, which takes seconds.
      is_configured: whether gin files and their flags are for this command itself; if not they are
        not in its help text.
      is_of_run: whether it is about one run; if not --model_dir is not in its help text.
      takes_words: whether words that are no flags follow it; they become `flags.words`.
    """

    name: str
    description: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.Namespace], None]
    function: str
    imports_tensorflow: bool = True
    is_configured: bool = True
    is_of_run: bool = True
    takes_words: bool = False

    def load(self) -> Function:
        """Imports and returns `function`."""
        module, _, name = self.function.partition(":")
        function: Function = getattr(importlib.import_module(module), name)
        return function


def no_flags(parser: argparse.ArgumentParser) -> None:
    """Adds no flags."""
    del parser


def command_word(name: str, description: str, commands: str) -> Command:
    """Returns the first word of commands of two words, alone an error that lists `commands`."""

    def check(_: argparse.Namespace) -> NoReturn:
        raise InputError(f"{name} needs a command: {commands}")

    return Command(name, description, no_flags, check, function="")
