"""Progress of a program: lines, bars, elapsed times."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
from collections.abc import Iterator
from io import RawIOBase
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.display.formats import duration_text
from mtfrun.display.streams import apply_style, is_terminal, terminal_size
from mtfrun.errors.untrusted import escape
from mtfrun.errors.url_secrets import mask_urls

_STYLE = re.compile(r"\x1b\[[0-9]*m")
_logs: list[RawIOBase] = []

_BAR_DELAY_SECS = 1.0
# Seconds between two lines in a pipe, at first; then a tenth of the elapsed time, so that an hour
# has about forty lines.
LINE_SECS = 10.0
_SHARE_BETWEEN_LINES = 0.1
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}{unit}{postfix}  eta {remaining}"
_NARROW_BAR = "{desc} {percentage:3.0f}%  eta {remaining}"
_BAR_WITHOUT_TOTAL = "{desc}  {n_fmt}{unit}{postfix}  {elapsed}"
_BYTES = "B"
# The widest bar, and the columns behind it that are left free: for "^C" too, which would wrap.
_MOST_COLUMNS, _FREE_COLUMNS = 100, 4
# With fewer columns there is no space for amounts and a bar.
_LEAST_COLUMNS = 60

# Seconds between two changes of an elapsed time.
_TICK_SECS = 0.5

# From the outermost to the innermost that is being done.
_present: list[Work] = []


@contextlib.contextmanager
def log_to(file: RawIOBase) -> Iterator[None]:
    """Writes the lines of `note` and `print_line` also to a file, with times, in every process.

    Lines that cannot be written are dropped: a file without a buffer does not retry them.
    """
    _logs.append(file)
    try:
        yield
    finally:
        _logs.remove(file)


def log(text: str) -> None:
    """Writes a line, or several, only to the files of `log_to`."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    lines = "".join(f"{now}  {line}\n" for line in mask_urls(_STYLE.sub("", text)).splitlines())
    for file in _logs:
        with contextlib.suppress(OSError):
            file.write(lines.encode("utf-8", "backslashreplace"))


def note(text: str, stream: TextIO | None = None) -> None:
    """Prints a line above all bars; of several processes only the first one does."""
    if processes.is_first():
        print_line(text, stream)
    else:
        log(text)


def print_line(text: str, stream: TextIO | None = None) -> None:
    log(text)
    stream = sys.stderr if stream is None else stream
    if stream is None:  # a closed standard error, where print() does nothing either
        return
    tqdm.write(mask_urls(text), file=stream)
    stream.flush()


def warning(text: str) -> str:
    return f"{apply_style('mtfrun: warning:', 'yellow')} {text}"


def error(text: str) -> str:
    return f"{apply_style('mtfrun: error:', 'red')} {text}"


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Prevents absl from installing a handler with lines that begin with "WARNING:absl:"."""
    handler = _Lines(logging.WARNING)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = escape(" ".join(record.getMessage().split()))
        kind = error if record.levelno >= logging.ERROR else warning
        print_line(kind(text))


def present_work() -> str | None:
    return _present[-1].text if _present else None


class Work:
    """Shows the progress of the work in a `with` block, in the first of several processes.

    On a terminal a bar, which is removed at the end; in a pipe (`has_lines`) a line every ten
    seconds at first, later less often, and one at the end, so that quick work prints nothing.
    `total` may be None; the unit "B" is bytes, shown in MB.
    """

    def __init__(
        self,
        text: str,
        total: float | None = None,
        unit: str = "",
        *,
        done: float = 0,
        has_lines: bool = True,
        stream: TextIO | None = None,
    ):
        self.text = text
        self.done = done
        self._total = total or None
        self._unit = unit
        self._first = done
        self._has_lines = has_lines
        self._stream = stream = stream or sys.stderr
        self._start = self._last_line = time.monotonic()
        self._detail = ""
        self._bar: tqdm[object] | None = None
        if is_terminal(stream) and processes.is_first():
            self._bar = self._new_bar()

    def __enter__(self) -> Work:
        _present.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _present.remove(self)
        if kind is None:
            self.finish()
        self.close()

    def advance(self, amount: float = 1) -> None:
        self.move_to(self.done + amount)

    def move_to(self, done: float, detail: str = "") -> None:
        self.done, self._detail = done, detail
        if self._bar is not None:
            if detail:
                self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        interval = max(LINE_SECS, _SHARE_BETWEEN_LINES * (now - self._start))
        is_over = done == self._total  # `finish` says so
        if self._has_lines and not is_over and now - self._last_line >= interval:
            self._last_line = now
            note(f"{self.text}: {self._amount()}{self._remaining(now)}", self._stream)

    def finish(self) -> None:
        if self._last_line > self._start:
            duration = duration_text(time.monotonic() - self._start)
            note(f"{self.text}: {self._amount(is_whole=True)} in {duration}", self._stream)

    def close(self) -> None:
        if self._bar is not None:
            # A bar that a line above it has drawn before its delay was over is not removed by tqdm.
            # One below another bar would scroll the screen here.
            if not self._bar.pos:
                self._bar.clear()
            self._bar.close()
            self._bar = None

    def _new_bar(self) -> tqdm[object]:
        is_bytes = self._unit == _BYTES
        bar: tqdm[object] = tqdm(
            total=self._total,
            initial=self.done,
            desc=self.text,
            unit=_BYTES if is_bytes else f" {self._unit}".rstrip(),
            unit_scale=is_bytes,
            bar_format=_BAR_WITHOUT_TOTAL if self._total is None else _BAR,
            file=self._stream,
            leave=False,
            delay=_BAR_DELAY_SECS,
        )

        def size(stream: TextIO) -> tuple[int, int]:
            columns, rows = terminal_size(stream)
            if self._total is not None:
                bar.bar_format = _BAR if columns >= _LEAST_COLUMNS else _NARROW_BAR
            return min(_MOST_COLUMNS, columns - _FREE_COLUMNS), rows

        bar.dynamic_ncols = size  # tqdm calls it whenever it draws
        return bar

    def _amount(self, *, is_whole: bool = False) -> str:
        """Returns "40 of 120 batches", or "6.5 of 12.0 MB, 1,200 examples"."""
        scale, unit, form = (1e6, "MB", ",.1f") if self._unit == _BYTES else (1, self._unit, ",.0f")
        amount = f"{self.done / scale:{form}}"
        if self._total is not None and self.done <= self._total and not is_whole:
            amount += f" of {self._total / scale:{form}}"
        return f"{amount} {unit}".rstrip() + (f", {self._detail}" if self._detail else "")

    def _remaining(self, now: float) -> str:
        done = self.done - self._first
        if self._total is None or done <= 0 or self.done > self._total:
            return ""
        secs = (now - self._start) / done * (self._total - self.done)
        return f"  eta {duration_text(secs)}"


@contextlib.contextmanager
def waiting(
    text: str, finished: str | None = None, *, stream: TextIO | None = None
) -> Iterator[None]:
    """Shows a line with the elapsed time on a terminal; in the first of several processes only.

    `finished` is printed at the end, with the seconds; in a pipe `text` is then printed first.
    """
    stream = stream or sys.stderr
    if not processes.is_first() or stream is None:
        yield
        return
    start = time.monotonic()
    if finished is not None and not is_terminal(stream):
        note(text, stream)
    with _ticking(text, stream) if is_terminal(stream) else contextlib.nullcontext():
        yield
    if finished is not None:
        note(f"{finished} in {time.monotonic() - start:.0f} s", stream)


@contextlib.contextmanager
def _ticking(text: str, stream: TextIO) -> Iterator[None]:
    start, ended = time.monotonic(), threading.Event()

    def line() -> str:
        return apply_style(f"{text} ... {duration_text(time.monotonic() - start)}", "dim", stream)

    def tick(bar: tqdm[object]) -> None:
        while not ended.wait(_TICK_SECS):
            bar.set_description_str(line())

    with tqdm(
        desc=line(), bar_format="{desc}", file=stream, leave=False, dynamic_ncols=True
    ) as bar:
        thread = threading.Thread(target=tick, args=[bar], daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
