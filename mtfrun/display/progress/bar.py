from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.display.formats import duration_text
from mtfrun.display.progress.lines import note
from mtfrun.display.progress.screen import is_terminal, terminal_size

# Seconds of work before a bar appears: shorter work needs none.
_BAR_DELAY_SECS = 1.0
# Seconds of work before the first line in a pipe. From then on each follows after this time or a
# tenth of the elapsed time, whichever is longer: an hour has about forty lines.
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

# From the outermost to the innermost that is being done.
_present: list[Work] = []


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
        clock: Callable[[], float] = time.monotonic,
    ):
        self.text = text
        self.done = done
        self._total = total or None
        self._unit = unit
        self._first = done
        self._has_lines = has_lines
        self._stream = stream = stream or sys.stderr
        self._clock = clock
        self._start = self._last_line = clock()
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
        """`done` is the amount done by now."""
        self.done, self._detail = done, detail
        if self._bar is not None:
            if detail:
                self._bar.set_postfix_str(detail, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        now = self._clock()
        interval = max(LINE_SECS, _SHARE_BETWEEN_LINES * (now - self._start))
        is_over = done == self._total  # `finish` says so
        if self._has_lines and not is_over and now - self._last_line >= interval:
            self._last_line = now
            note(f"{self.text}: {self._amount()}{self._remaining(now)}", self._stream)

    def finish(self) -> None:
        if self._last_line > self._start:
            secs = self._clock() - self._start
            note(
                f"{self.text}: {self._amount(is_whole=True)} in {duration_text(secs)}", self._stream
            )

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
        total = self._total
        of_total = ""
        if total is not None and self.done <= total and not is_whole:
            of_total = f" of {total / scale:{form}}"
        detail = f", {self._detail}" if self._detail else ""
        return f"{self.done / scale:{form}}{of_total} {unit}".rstrip() + detail

    def _remaining(self, now: float) -> str:
        done = self.done - self._first
        if self._total is None or done <= 0 or self.done > self._total:
            return ""
        secs = (now - self._start) / done * (self._total - self.done)
        return f"  eta {duration_text(secs)}"
