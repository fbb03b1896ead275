"""Errors that the user can correct, a hint at the nearest name, and exit codes."""

from __future__ import annotations

import difflib
import enum
import errno
import itertools
import os
import shlex
import sys
from collections.abc import Iterable, Sequence

from mtfrun.errors.url_secrets import mask_urls


class ExitCode(enum.IntEnum):
    """How the command has ended, besides 0 and 128 + number for a signal."""

    DEFECT = 1
    BAD_INPUT = 2
    NOT_FINITE = 3  # a number of the model is infinite, or not a number
    LOST_PROCESS = 4  # another process of the run has failed or is lost
    NOT_EQUAL = 5  # or a drift over widths, or a damaged checkpoint
    TOO_LITTLE_MEMORY = 6


class InputError(ValueError):
    """An error in a setting, a file or a shape, in one line: what, where, the remedy.

    The command prints the message alone and exits with code 2. All other exceptions are defects and
    are shown with their traceback. Users' modules may raise InputError for their settings too.
    Passwords in URLs are masked.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(mask_urls(arg) if isinstance(arg, str) else arg for arg in args))


class ShapeError(InputError):
    """Dimensions that do not match: unknown, repeated, of the wrong size."""


class LayoutError(InputError):
    """A layout that is not possible on its mesh."""


class ConfigError(InputError):
    """An invalid configuration; the message is one line, with its place where there is one."""


def shorten(text: str, most: int, ellipsis: str = "...") -> str:
    """Returns a text of at most `most` characters; passwords in URLs are masked before.

    >>> shorten("a name that has no end", 10)
    'a name ...'
    """
    text = mask_urls(text)
    return text if len(text) <= most else text[: most - len(ellipsis)] + ellipsis


def list_some(names: Sequence[str], most: int = 3) -> str:
    """Returns the first names and the number of the others.

    >>> list_some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def install_command(package: str) -> str:
    """Returns a command that installs a package where this program finds it."""
    return shlex.join([sys.executable, "-m", "pip", "install", package])


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a question for the name nearest to `name`, or "".

    >>> did_you_mean("modle", ["data", "model"])
    ", did you mean 'model'?"
    >>> did_you_mean("temp", ["top_p", "temperature"])
    ", did you mean 'temperature'?"
    >>> did_you_mean("train_steps", ["TRAIN_STEPS"])
    ", did you mean 'TRAIN_STEPS'?"
    """
    near = nearest(name, known)
    return f", did you mean {near!r}?" if near else ""


# The time to compare two names grows with the product of their lengths, and data may have millions
# of names of megabytes.
_LONGEST, _MOST = 200, 5000


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the name most similar to `name` among `known`; None if none is similar.

    The only one that begins with `name` is the most similar one.
    """
    short = list(itertools.islice((x for x in known if len(x) <= _LONGEST), _MOST))
    begun = [other for other in short if name and other.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    same = [other for other in short if other.lower() == name.lower()]
    near = same or difflib.get_close_matches(name[:_LONGEST], short, n=1)
    return near[0] if near else None


# In errors of libraries when the system lacks files, threads or memory.
_SHORTAGES = (
    *("can't start new thread", "failed to map segment", "std::bad_alloc", "OOM when allocating"),
    *map(os.strerror, (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)),
)
RAISE_THE_LIMIT = "nothing is damaged: raise the limit (ulimit -a), or end other programs"


def is_shortage(reason: object) -> bool:
    """Returns whether an error says that the system lacks files, threads or memory."""
    return any(shortage in str(reason) for shortage in _SHORTAGES)


def is_input_error(error: BaseException) -> bool:
    """Returns whether a user can correct an error: an InputError, or one of the operating system.

    A lack of memory or threads counts. All other exceptions of libraries and of users' modules, a
    plain ValueError too, are defects of a program: the author needs the traceback.
    """
    return isinstance(error, InputError | OSError | MemoryError) or is_shortage_of_library(error)


def is_shortage_of_library(error: BaseException) -> bool:
    """Whether Python or TensorFlow lacks threads or memory, also for an import."""
    is_of_library = isinstance(error, RuntimeError | ImportError)
    is_of_tensorflow = type(error).__module__.partition(".")[0] == "tensorflow"
    return (is_of_library or is_of_tensorflow) and is_shortage(error)
