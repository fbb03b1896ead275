from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mtfrun.errors import RAISE_THE_LIMIT, InputError, is_shortage_of_library, nearest
from mtfrun.errors.untrusted import escape
from mtfrun.errors.url_secrets import mask_urls

# The text that gin appends to the message of every exception that passes one of its wrappers.
_GIN_SUFFIX = re.compile(
    r"\n {1,8}(No values supplied by Gin|Gin had values|Caller supplied|In call to configurable).*",
    re.DOTALL,
)


# Characters of a line, of which the last ones are shown too: the remedy stands there.
_LONGEST, _END = 2000, 400

# From a path to a note for error messages that contain it.
_notes: dict[str, str] = {}


def one_line(error: BaseException) -> str:
    """Drops gin's additions, escapes characters that change a terminal, and masks passwords."""
    text = escape(mask_urls(_text(error)))
    if len(text) > _LONGEST:
        return f"{text[: _LONGEST - _END]} ... {text[-_END:]}"
    return text


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        prefix = f"{error.filename}: " if error.filename else ""
        return f"{prefix}{error.strerror}{path_hint(error)}"
    if isinstance(error, MemoryError):
        text = " ".join(str(error).split())
        return f"not enough memory{': ' * bool(text)}{text}; make the model or the batch smaller"
    if is_shortage_of_library(error):
        lines = str(error).strip().splitlines()
        return f"{lines[0]}; {RAISE_THE_LIMIT}, or make the model or the batch smaller"
    text = " ".join(_GIN_SUFFIX.sub("", str(error)).split()) or type(error).__name__
    lost = (path for path in _notes if path in text and not os.path.lexists(path))
    return text + _notes.get(next(lost, ""), "")


def note_path(path: str, note: str) -> None:
    _notes[path] = _notes[os.path.normpath(path)] = note


def path_hint(error: OSError) -> str:
    """Returns the remedy for a path that does not exist or is a directory, "" for other errors."""
    if not isinstance(error.filename, str | bytes):
        return ""
    path = os.fsdecode(error.filename)
    if isinstance(error, IsADirectoryError):
        return ": name a file in it"
    if not isinstance(error, FileNotFoundError):
        return ""
    folder, name = os.path.split(path)
    names = [os.path.basename(other) for other in neighbours(path)]  # noqa: PTH119 - of texts
    near = nearest(name, names)
    return f", did you mean {os.path.join(folder, near)!r}?" if near else "; check the path"  # noqa: PTH118


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if str(error) == one_line(error):
            raise
        plain = without_gin(type(error))
        raise plain(one_line(error)) from None


def without_gin(kind: type[InputError]) -> type[InputError]:
    """Drops the class that gin derives from an error's class."""
    while getattr(vars(kind).get("__str__"), "__module__", "").startswith("gin."):
        (kind,) = kind.__bases__
    return kind


def neighbours(name: str) -> list[str]:
    try:
        return [str(path) for path in Path(name).parent.iterdir()]
    except OSError:
        return []
