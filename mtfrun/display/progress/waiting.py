from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from tqdm import tqdm

from mtfrun import processes
from mtfrun.display.formats import duration_text
from mtfrun.display.progress.lines import note
from mtfrun.display.progress.screen import apply_style, is_terminal

_TICK_SECS = 0.5


@contextlib.contextmanager
def waiting(
    text: str,
    finished: str | None = None,
    *,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Shows a line with the elapsed time on a terminal; in the first of several processes only.

    `finished` is printed at the end, with the seconds; in a pipe `text` is then printed first.
    """
    stream = stream or sys.stderr
    if not processes.is_first() or stream is None:
        yield
        return
    start = clock()
    with contextlib.ExitStack() as stack:
        if is_terminal(stream):
            stack.enter_context(_ticking(text, stream, lambda: clock() - start))
        elif finished is not None:
            note(text, stream)
        yield
    if finished is not None:
        note(f"{finished} in {clock() - start:.0f} s", stream)


@contextlib.contextmanager
def _ticking(text: str, stream: TextIO, elapsed: Callable[[], float]) -> Iterator[None]:
    ended = threading.Event()

    def line() -> str:
        return apply_style(f"{text} ... {duration_text(elapsed())}", "dim", stream)

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
