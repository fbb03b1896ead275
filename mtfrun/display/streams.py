"""Standard output, with errors as InputErrors; standard error, which never fails; colours."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, Literal, TextIO

from mtfrun.errors import InputError, is_input_error
from mtfrun.errors.untrusted import escape, visible
from mtfrun.errors.url_secrets import mask_urls

Style = Literal["bold", "dim", "red", "yellow", "green"]

# Parameters of "Select Graphic Rendition", ECMA-48, section 8.3.117.
_CODES: dict[Style, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33}
_DEFAULT_SIZE = os.terminal_size((80, 24))

_STANDARD_ERROR = 2
# The control characters that tqdm writes to move between its bars, and the colours of lines.
_MOVES = re.compile(r"[\r\n]*(\x1b\[A)*")
_COLOURS, _NOTHING = re.compile(r"(\x1b\[\d{1,2}m)"), re.compile("(?!)")


class OutputError(InputError):
    """Standard output cannot be written."""


def is_terminal(stream: TextIO | None = None) -> bool:
    """Returns whether lines of a stream (default stderr) can be overwritten: not if TERM=dumb."""
    stream = sys.stderr if stream is None else stream
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def apply_style(text: str, style: Style, stream: TextIO | None = None) -> str:
    """Leaves the text plain if a stream (default stderr) has no colours, https://no-color.org."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def terminal_size(stream: TextIO | None = None) -> os.terminal_size:
    stream = sys.stderr if stream is None else stream
    try:
        return os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):  # ValueError: it was closed
        return _DEFAULT_SIZE


@contextlib.contextmanager
def named_stdout() -> Iterator[None]:
    """Errors of `sys.stdout` become OutputErrors, or BrokenPipeErrors if the reader closed it.

    The system's error has no file name, and an error while Python exits has a traceback. Passwords
    in URLs are masked until `print_unmasked`.
    """
    former = sys.stdout
    if former is None:  # closed: print() does nothing then
        yield
        return
    encoding = former.encoding or "utf-8"
    sys.stdout = _Stream(
        former, lambda text: visible(mask_urls(text), encoding), _raise_output_errors
    )
    try:
        try:
            yield
        finally:  # also after --help, which raises SystemExit
            sys.stdout.flush()
    except OutputError:
        discard(former.fileno())
        raise
    finally:
        sys.stdout = former


def print_unmasked() -> None:
    """Leaves URLs as they are: for commands that print the texts of data and of models."""
    if isinstance(sys.stdout, _Stream):
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout._escape = lambda text: visible(text, encoding)


def print_lines(*lines: str) -> None:
    """Escapes unprintable characters: for names and texts from data or untrusted files."""
    for line in lines:
        print(escape(line), flush=True)


def print_styled(*lines: str) -> None:
    """Prints lines with colours, see `apply_style`, of parts that are escaped already."""
    write = sys.stdout.write_styled if isinstance(sys.stdout, _Stream) else sys.stdout.write
    for line in lines:
        write(f"{line}\n")
    sys.stdout.flush()


def discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)


def _escape_parts(text: str, colours: re.Pattern[str], escape: Callable[[str], str]) -> str:
    parts = colours.split(text)  # odd entries are colours
    return "".join(part if i % 2 else escape(part) for i, part in enumerate(parts))


class _Stream:
    """Writes to another stream what `escape` returns, inside the block `handle_errors()`."""

    def __init__(
        self,
        stream: TextIO,
        escape: Callable[[str], str],
        handle_errors: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._stream = stream
        self._escape = escape
        self._handle_errors = handle_errors

    def write(self, text: str) -> int:
        with self._handle_errors():
            self._stream.write(self._escape(text))
        return len(text)

    def write_styled(self, text: str) -> int:
        """As `write`, but colours are not escaped."""
        with self._handle_errors():
            self._stream.write(_escape_parts(text, _COLOURS, self._escape))
        return len(text)

    def flush(self) -> None:
        with self._handle_errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _raise_output_errors() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"cannot write standard output: {error.strerror or error}: what was printed is not "
            "whole; free space or send it elsewhere"
        ) from error


@contextlib.contextmanager
def unfailing_stderr() -> Iterator[None]:
    """`sys.stderr` drops text that cannot be written: the exit code alone says the result."""
    former = sys.stderr
    if former is None:
        # It was closed when Python started. The next file that is opened would get its number, and
        # with it the messages that TensorFlow prints from C++.
        discard(_STANDARD_ERROR)
        # Open until the end of the program.
        sys.stderr = open(_STANDARD_ERROR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    else:
        sys.stderr = unfailing(former)
    try:
        yield
    finally:
        sys.stderr = former


def unfailing(stream: TextIO) -> Any:
    """Escapes control characters, except for bars and, on a terminal, colours; masks passwords."""

    def escape_text(text: str) -> str:
        if _MOVES.fullmatch(text):
            return text
        text = mask_urls(text)
        start = text[: text.startswith("\r")]
        colours = _COLOURS if stream.isatty() else _NOTHING
        return start + _escape_parts(text[len(start) :], colours, visible)

    @contextlib.contextmanager
    def drop_errors() -> Iterator[None]:
        try:
            yield
        except OSError:
            # Later writes succeed, also Python's flush when it exits.
            discard(stream.fileno())

    return _Stream(stream, escape_text, drop_errors)


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drops text that is written to standard error inside; prints it if there is a defect."""
    if sys.stderr is not None:
        sys.stderr.flush()
    stderr_copy = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except Exception as error:  # not Ctrl-C
            if is_input_error(error):
                raise
            os.dup2(stderr_copy, 2)
            captured.seek(0)
            with contextlib.suppress(OSError), open(2, "wb", closefd=False) as stderr:
                shutil.copyfileobj(captured, stderr)
            raise
        finally:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(stderr_copy, 2)
            os.close(stderr_copy)
