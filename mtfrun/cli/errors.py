"""The errors that a user can correct, and their messages in one line."""

from __future__ import annotations

import re

from mtfrun.errors import InputError

# What gin appends to the message of every exception that passes one of its wrappers.
_GIN_SUFFIX = re.compile(
    r"\n\s+(No values supplied by Gin|Gin had values|Caller supplied|In call to configurable).*",
    re.DOTALL,
)


class UsageError(InputError):
    """An invalid command line; the message is one line with the remedy."""


class ConfigError(InputError):
    """An invalid configuration; the message is one line, with its place if known."""


def is_input_error(error: BaseException) -> bool:
    """Returns whether a user can correct an error: an InputError, or one of the operating system.

    Too little memory is one of the latter. All other exceptions of libraries and of a user's own
    modules, a plain ValueError too, are defects of a program, whose author needs the traceback.
    """
    return isinstance(error, InputError | OSError | MemoryError)


def one_line(error: BaseException) -> str:
    """Returns the message of an error without line ends, and without what gin added to it."""
    if isinstance(error, OSError) and error.strerror:
        prefix = f"{error.filename}: " if error.filename else ""
        return f"{prefix}{error.strerror}"
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split())
        return f"not enough memory{': ' * bool(text)}{text}; make the model or the batch smaller"
    return " ".join(_GIN_SUFFIX.sub("", str(error)).split()) or type(error).__name__
