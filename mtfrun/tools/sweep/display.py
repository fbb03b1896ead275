from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from mtfrun.display.formats import number_text, shorten_cell
from mtfrun.rundir import Status

# Seconds between two lines of a run where there is no terminal.
_LINE_SECS = 60.0
_LONGEST_NAME = 40


class Display:
    def __init__(
        self,
        count: int,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = count
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bars: dict[str, tqdm] = {}
        self._lines: dict[str, float] = {}  # when the last line of a run was printed

    def note(self, text: str) -> None:
        """Prints a line, on a terminal above the bars."""
        tqdm.write(text, file=self._stream)
        self._stream.flush()

    def start(self, number: int, name: str) -> None:
        self._lines[name] = self._clock()
        if self._stream.isatty():
            self._bars[name] = tqdm(
                total=1,
                desc=f"{shorten_cell(name, _LONGEST_NAME)}: starting",
                file=self._stream,
                leave=False,
                bar_format="{percentage:3.0f}% |{bar:15}| {desc}",
            )
        else:
            self.note(f"[{number}/{self._count}] {name}: starting")

    def advance(self, name: str, status: Status) -> None:
        loss = status.values.get("loss")
        text = f"step {status.step}/{status.train_steps}"
        text += f", loss {number_text(loss)}" if loss is not None else ""
        bar = self._bars.get(name)
        if bar is not None:
            bar.total, bar.n = status.train_steps, status.step
            bar.set_description_str(f"{shorten_cell(name, _LONGEST_NAME)}: {text}")
        elif self._clock() - self._lines[name] >= _LINE_SECS:
            self._lines[name] = self._clock()
            self.note(f"{name}: {text}")

    def end(self, number: int, name: str, text: str) -> None:
        bar = self._bars.pop(name, None)
        if bar is not None:
            bar.close()
            self._stream.write("\r")  # tqdm leaves the cursor behind the bar
        self.note(f"[{number}/{self._count}] {name}: {text}")
