"""The progress of building caches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from mtfrun.data.cache_progress import Building, building_progress

EVERY_SECS = 10.0


@contextlib.contextmanager
def caching_progress(clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Shows on standard error how far the caches are that are built inside.

    A bar on a terminal, else a line every ten seconds, so that a quick build prints nothing.

    Args:
      clock: returns seconds.
    """
    with contextlib.closing(_Progress(clock)) as progress, building_progress(progress.show):
        yield


class _Progress:
    """A bar or lines about the cache that is built at present."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._present: tuple[str, str] | None = None
        self._bar: tqdm[object] | None = None
        self._start = self._last = 0.0

    def show(self, building: Building | None) -> None:
        """Shows how far a cache is; None when it is finished."""
        if building is None:
            self.close()
            return
        if self._present != (building.name, building.split):
            self.close()
            self._present = building.name, building.split
            self._start = self._last = self._clock()
            if sys.stderr.isatty():
                self._bar = _bar(building)
        if self._bar is not None:
            self._bar.update(building.num_bytes - self._bar.n)
        elif self._clock() - self._last >= EVERY_SECS:
            self._last = self._clock()
            line = _line(building, self._last - self._start)
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Removes the bar."""
        self._present = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(building: Building) -> tqdm[object]:
    return tqdm(
        total=building.expected_bytes,
        desc=f"caching {building.name} {building.split}",
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        leave=False,
    )


def _line(building: Building, secs: float) -> str:
    """Returns "caching NAME train: 12,345 examples, 6.5 of 12.0 MB  eta 30 s"."""
    size, expected = building.num_bytes, building.expected_bytes
    line = f"caching {building.name} {building.split}: {building.examples:,} examples"
    if expected is None or size >= expected:
        return f"{line}, {size / 1e6:.1f} MB"
    remaining = secs / max(size, 1) * (expected - size)
    return f"{line}, {size / 1e6:.1f} of {expected / 1e6:.1f} MB  eta {remaining:.0f} s"
