"""The loop over positions, in segments of growing caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from mtfrun import mtf
from mtfrun.decoding.decoder import Decoder, StepFunction
from mtfrun.decoding.prompt import Start
from mtfrun.decoding.state import fitted

# Attention reads the whole cache at every step. In four segments it reads 5/8 of it on average,
# for four times the program: measured 16 % faster with beams, 3-4 % without.
SEGMENTS = 4
# Shorter segments save less than their loops cost.
SHORTEST_SEGMENT = 16


# A NamedTuple of the loop's variables, with these among them: `position`, the position to be made
# next, an int32 scalar; `unfinished`, a bool scalar; `state`, that of the decoder.
P = TypeVar("P")


def over_positions(
    start: Start,
    length: mtf.Dimension,
    first: P,
    advance: Callable[[P, StepFunction], P],
) -> P:
    """Returns the variables after `advance` made positions until `length` or until finished.

    Args:
      start: the decoder, and what it has read before the first step.
      length: its size is the number of positions.
      first: the variables before the first step; `state` is filled in here.
      advance: makes the position `progress.position` with the step function, and counts it.
    """
    progress: Any = first
    decoder, state = start.decoder, None
    for end in segment_ends(decoder, length, progress.position.mesh, start.read_at_once):
        part = decoder
        if end < length.size and decoder.within is not None:
            part = decoder.within(end)
        state = part.initial_state if state is None else fitted(state, part.initial_state)
        (progress,) = mtf.while_loop(
            lambda p, end=end: mtf.logical_and(p.unfinished, mtf.less(p.position, end)),
            lambda p, step=part.step: [advance(p, step)],
            [progress._replace(state=state)],
        )
        state = progress.state
    return cast(P, progress)


def segment_ends(
    decoder: Decoder, length: mtf.Dimension, mesh: mtf.Mesh, read_at_once: int
) -> list[int]:
    """Returns the positions before which the caches grow, the last one being `length`.

    None of them lies within what is read at once. One segment on several devices, where every loop
    costs seconds to compile.
    """
    number = min(SEGMENTS, length.size // SHORTEST_SEGMENT)
    if decoder.within is None or mesh.is_distributed or number < 2:
        return [length.size]
    ends = [-(-length.size * i // number) for i in range(1, number + 1)]
    return [end for end in ends if end > read_at_once] or [length.size]
