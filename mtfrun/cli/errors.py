"""Which errors are the user's to mend, and what one line says of them."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Iterable

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What gin appends to the message of every exception that passes one of its wrappers.
_GIN_SUFFIX = re.compile(
    r"\n\s+(No values supplied by Gin|Gin had values|Caller supplied|In call to configurable).*",
    re.DOTALL,
)


class UsageError(ValueError):
    """A command line that cannot be carried out; the message is one line with the remedy."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line, with its place if known."""


def is_input_error(error: BaseException) -> bool:
    """Returns whether the input is to blame: the errors that we raise, and the system's.

    Too little memory counts as one of them. A ValueError out of a library is a defect of ours as
    long as we have not foreseen it.
    """
    if isinstance(error, OSError | MemoryError):
        return True
    if not isinstance(error, ValueError):
        return False
    if type(error).__module__.startswith("mtfrun."):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename.startswith(PACKAGE + os.sep)


def one_line(error: BaseException) -> str:
    """Returns the message of an error without line ends, and without what gin added to it."""
    if isinstance(error, OSError) and error.strerror:
        named = f"{error.filename}: " if error.filename else ""
        return f"{named}{error.strerror}"
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split())
        return f"not enough memory{': ' * bool(text)}{text}; make the model or the batch smaller"
    return " ".join(_GIN_SUFFIX.sub("", str(error)).split()) or type(error).__name__


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the known name nearest to `name`, or "".

    Not that of `mtf`, which is behind the import of TensorFlow.

    >>> did_you_mean("--modle_dir", ["--model_dir", "--debug"])
    ", did you mean '--model_dir'?"
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f", did you mean {near[0]!r}?" if near else ""
