"""The errors that a user can correct."""

from __future__ import annotations

from mtfrun.errors import InputError, is_shortage


class UsageError(InputError):
    """An invalid command line; the message is one line with the remedy."""


def is_input_error(error: BaseException) -> bool:
    """Returns whether a user can correct an error: an InputError, or one of the operating system.

    Too little memory is one of the latter. All other exceptions of libraries and of a user's own
    modules, a plain ValueError too, are defects of a program, whose author needs the traceback.
    """
    return isinstance(error, InputError | OSError | MemoryError) or (
        isinstance(error, RuntimeError) and is_shortage(error)  # no more threads
    )
