from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command: its name (one word, or two such as "data show"), its help text, and what it does.

    The list of commands shows the first line of `description`. `check` raises InputError for flags
    that cannot be used. `run` gets the flags, and the words as typed, the program first; it returns
    the exit code and imports what it needs, since many modules import TensorFlow. The help shows
    the flags of gin only if `is_configured`, --model_dir only if `is_of_run`. With `takes_words`,
    words that are not flags become `flags.words`.
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
