"""What the command line knows of a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command: its name, its help text, its flags, and what it does.

    Attributes:
      name: one word, or two such as "data show".
      description: the help text; its first line is shown in the list of commands.
      add_flags: adds its flags to a parser.
      check: raises InputError for values of flags that cannot be used.
      run: called with the flags, and the words as they were typed, the program first; returns the
        exit code. It imports what it needs, since many modules import TensorFlow.
      imports_tensorflow: whether `run` does, which takes seconds.
      is_configured: whether gin files and their flags are for this command itself; if not they are
        not in its help text.
      is_of_run: whether it is about one run; if not --model_dir is not in its help text.
      takes_words: whether words that are not flags follow it; they become `flags.words`.
    """

    name: str
    description: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    check: Callable[[argparse.Namespace], None]
    run: Callable[[argparse.Namespace, Sequence[str]], int]
    imports_tensorflow: bool = True
    is_configured: bool = True
    is_of_run: bool = True
    takes_words: bool = False


def no_flags(_: argparse.ArgumentParser) -> None:
    pass


def accept(_: argparse.Namespace) -> None:
    """Accepts all flags."""
