"""Which errors are the user's to mend, and what one line says of them."""

from __future__ import annotations

import re

from mtfrun.errors import InputError

# What gin appends to the message of every exception that passes one of its wrappers.
_GIN_SUFFIX = re.compile(
    r"\n\s+(No values supplied by Gin|Gin had values|Caller supplied|In call to configurable).*",
    re.DOTALL,
)


class UsageError(InputError):
    """A command line that cannot be carried out; the message is one line with the remedy."""


class ConfigError(InputError):
    """A configuration that cannot be used; the message is one line, with its place if known."""


def is_input_error(error: BaseException) -> bool:
    """Returns whether the user can correct it: the errors that we raise, and the system's.

    Too little memory counts as one of them. Whatever else comes out of a library or of a user's own
    module, a plain ValueError too, is a defect of a program, whose author needs its traceback.
    """
    return isinstance(error, InputError | OSError | MemoryError)


def one_line(error: BaseException) -> str:
    """Returns the message of an error without line ends, and without what gin added to it."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split())
        return f"not enough memory{': ' * bool(text)}{text}; make the model or the batch smaller"
    return " ".join(_GIN_SUFFIX.sub("", str(error)).split()) or type(error).__name__
