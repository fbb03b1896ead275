"""Inputs that are valid ones with damage, and a limit of CPU time for each."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from mtfrun.errors import InputError

# Examples of a kind in the default suite, and in slow tests.
FEW, MANY = 50, 500
CPU_SECS = 10.0

# Pieces that readers treat in a special way.
PIECES = [
    *(b"\x00", b"\xff", b"\n", b"\r\n", b"\t", b"\\", b'"', b"'", b"\x1b[2J", b"\xef\xbb\xbf"),
    *(b"[" * 300, b"{", b"}" * 70, b"(" * 70, b"9" * 400, b"-", b"1e999", b"NaN", b"null", b"0x"),
    *("\u202e\u2028\U0001f600".encode(), b"\xed\xa0\x80", b"../../x", b"/dev/zero", b"~nobody/x"),
    *(b"\x7f\xff\xff\xff", b"\x80\x00\x00\x00", b"cposix\nsystem\n(S'touch pwned'\ntR."),
]
KINDS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]


def some_quick(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """Returns parameters of a test, of which those that are not `quick` are slow."""
    assert set(quick) <= set(names)
    return [pytest.param(n, marks=[] if n in quick else pytest.mark.slow) for n in names]


@strategies.composite
def damaged(draw: strategies.DrawFn, valid: Sequence[bytes], pieces: Sequence[bytes] = ()) -> bytes:
    """Draws a valid input with up to four changes, or bytes of any kind."""
    if draw(strategies.integers(0, 9)) == 0:
        return draw(strategies.binary(max_size=200))
    content = draw(strategies.sampled_from(valid))
    for _ in range(draw(strategies.integers(1, 4))):
        start = draw(strategies.integers(0, len(content)))
        end = min(len(content), start + draw(strategies.integers(0, 8)))
        change = draw(strategies.sampled_from(["replace", "piece", "cut", "repeat", "splice"]))
        if change == "replace":
            content = content[:start] + draw(strategies.binary(max_size=6)) + content[end:]
        elif change == "piece":
            piece = draw(strategies.sampled_from([*PIECES, *pieces]))
            content = content[:start] + piece + content[end:]
        elif change == "cut":
            content = content[:start] + content[start + draw(strategies.integers(0, 400)) :]
        elif change == "repeat":
            content = content[:end] + content[start:]
        else:
            other = draw(strategies.sampled_from(valid))
            content = content[:start] + other[draw(strategies.integers(0, len(other))) :]
    return content


def fuzz(
    count: int, inputs: strategies.SearchStrategy[bytes], read: Callable[[bytes], object]
) -> None:
    """Calls `read` with inputs, which may return or raise an InputError of one line only."""

    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(inputs)
    def check(content: bytes) -> None:
        with cpu_limit(CPU_SECS):
            try:
                read(content)
            except InputError as error:
                assert str(error)

    check()


@contextlib.contextmanager
def cpu_limit(secs: float) -> Iterator[None]:
    """Raises AssertionError in a block that needs more CPU time."""

    def stop(*_: object) -> None:
        raise AssertionError(f"more than {secs} s of CPU")

    former = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, secs)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)
