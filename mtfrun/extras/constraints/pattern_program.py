"""Makes automata over bytes of patterns; a program that needs interegular and outlines-core alone.

It reads lines of JSON from standard input, {"pattern": a regular expression} or {"schema": text},
and answers each with {"states": number, "after": int32 [states, 256], compressed and in base64,
"may_end": numbers of states}, or with {"error": reason, "is_too_large": whether a shorter pattern
may do}.

A short pattern may need any number of states, seconds and bytes: this process has limits.
"""

from __future__ import annotations

import array
import base64
import collections
import functools
import importlib
import itertools
import json
import resource
import sys
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

NO_STATE = -1

MOST_STATES = 20_000
"""Of an automaton; more are too many for the tables of a vocabulary."""

MOST_BYTES = 1 << 30
"""The memory of the process."""

MOST_CPU_SECS = 10
"""Of one answer: it ends the process."""

# Between tokens of JSON.
_WHITESPACE = "[ ]?"

# Of a pattern whose repetitions are written out.
_MOST_PARTS = 200_000

Bytes: TypeAlias = tuple[int, int]
"""The first and the last byte of a range."""

Group: TypeAlias = tuple[frozenset[str], bool]
"""Characters, and whether all others are meant."""

# Neither is a character of UTF-8. RFC 3629, section 4.
_SURROGATES, _BEYOND = range(0xD800, 0xE000), 0x110000


class TooLargeError(Exception):
    """A pattern needs too many states."""


class _Nondeterministic:
    """An automaton over bytes that may be in several states.

    Thompson 1968, https://doi.org/10.1145/363347.363387: a part of a pattern leads from one state
    to another.
    """

    def __init__(self) -> None:
        self._patterns = importlib.import_module("interegular.patterns")
        self.moves: list[list[tuple[Bytes, int]]] = []  # (bytes, state) of each state
        self.empty_moves: list[list[int]] = []
        self.end = self._new()

    def add_expression(self, expression: str) -> int:
        """Returns the state in which a regular expression begins."""
        interegular = importlib.import_module("interegular")
        pattern, begin = interegular.parse_pattern(expression), self._new()
        if _has_lookahead(pattern):
            self._add_machine(pattern.to_fsm(), begin, interegular.fsm.anything_else)
        else:
            end = self._add(pattern, begin, self._patterns.REFlags(0))
            self.empty_moves[end].append(self.end)
        return begin

    def _new(self) -> int:
        if len(self.moves) >= _MOST_PARTS:
            raise TooLargeError(f"it has more than {_MOST_PARTS:,} parts, repetitions included")
        self.moves.append([])
        self.empty_moves.append([])
        return len(self.moves) - 1

    def _add(self, part: Any, begin: int, flags: Any) -> int:
        """Returns the state after a part of the pattern that begins in a state."""
        patterns = self._patterns
        if isinstance(part, patterns.Pattern):
            flags = (flags | part.added_flags) & ~part.removed_flags
            end = self._new()
            for option in part.options:
                self.empty_moves[self._add(option, begin, flags)].append(end)
            return end
        if isinstance(part, patterns._Concatenation):
            for x in part.parts:
                begin = self._add(x, begin, flags)
            return begin
        if isinstance(part, patterns._Repeated):
            return self._repeat(part, begin, flags)
        if part == patterns._EMPTY:
            return begin
        end = self._new()
        self._add_characters(self._group(part, flags), begin, end)
        return end

    def _repeat(self, part: Any, begin: int, flags: Any) -> int:
        for _ in range(part.min):
            begin = self._add(part.base, begin, flags)
        end = self._new()
        self.empty_moves[begin].append(end)
        if part.max is None:
            self.empty_moves[self._add(part.base, end, flags)].append(end)
            return end
        for _ in range(part.max - part.min):
            begin = self._add(part.base, begin, flags)
            self.empty_moves[begin].append(end)
        return end

    def _group(self, part: Any, flags: Any) -> Group:
        known = self._patterns.REFlags
        if flags & ~(known.CASE_INSENSITIVE | known.SINGLE_LINE):
            raise self._patterns.Unsupported(f"{flags} is not supported")
        if part == self._patterns._DOT:
            return frozenset("" if flags & known.SINGLE_LINE else "\n"), True
        chars = part.chars
        if flags & known.CASE_INSENSITIVE:
            cases = (case for x in chars for case in (x.lower(), x.upper()))
            chars = frozenset(case for case in cases if len(case) == 1)
        return chars, part.negated

    def _add_characters(self, group: Group, begin: int, end: int) -> None:
        states: dict[tuple[Bytes, ...], int] = {(): end}  # by what is missing of a character
        for parts in _bytes_of(group):
            for i in range(len(parts) - 1, 0, -1):
                if parts[i:] not in states:
                    states[parts[i:]] = self._new()
                    self.moves[-1].append((parts[i], states[parts[i + 1 :]]))
            self.moves[begin].append((parts[0], states[parts[1:]]))

    def _add_machine(self, machine: Any, begin: int, other: object) -> None:
        """Adds an automaton of interegular's; `other` stands for unlisted characters."""
        _check_size(len(machine.states))
        states = {state: self._new() for state in machine.states}
        self.empty_moves[begin].append(states[machine.initial])
        keys = {x: key for x, key in machine.alphabet.items() if isinstance(x, str)}
        for state, number in states.items():
            if state in machine.finals:
                self.empty_moves[number].append(self.end)
            after = machine.map.get(state, {})
            for target in set(after.values()):
                negated = after.get(machine.alphabet.get(other)) == target
                chars = frozenset(
                    x for x, key in keys.items() if (after.get(key) == target) != negated
                )
                self._add_characters((chars, negated), number, states[target])

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """Returns the states that are reached without a byte and have a move, or the end."""
        stack, seen = list(states), set(states)
        while stack:
            for state in self.empty_moves[stack.pop()]:
                if state not in seen:
                    seen.add(state)
                    stack.append(state)
        return frozenset(x for x in seen if self.moves[x] or x == self.end)


def _has_lookahead(part: Any) -> bool:
    parts = [part]
    while parts:
        part = parts.pop()
        if hasattr(part, "inner"):
            return True
        parts += [*getattr(part, "options", ()), *getattr(part, "parts", ())]
        parts += [part.base] if hasattr(part, "base") else []
    return False


@functools.lru_cache(1 << 10)
def _bytes_of(group: Group) -> list[tuple[Bytes, ...]]:
    """Returns the bytes of characters in UTF-8, as ranges for byte after byte."""
    chars, negated = group
    points = {ord(x) for x in chars}
    points = points.union(_SURROGATES) if negated else points.difference(_SURROGATES)
    runs: list[tuple[int, int]] = []
    for point in sorted(points):
        first = runs.pop()[0] if runs and runs[-1][1] == point - 1 else point
        runs.append((first, point))
    if negated:
        bounds = [-1, *(point for run in runs for point in run), _BEYOND]
        gaps = zip(bounds[::2], bounds[1::2], strict=True)
        runs = [(before + 1, after - 1) for before, after in gaps if before + 1 < after]
    return [parts for run in runs for parts in _split(*run)]


def _split(first: int, last: int) -> Iterator[tuple[Bytes, ...]]:
    """Yields ranges of bytes that have the characters of a range together."""
    size = len(chr(first).encode())
    ends = [most for most in (0x7F, 0x7FF, 0xFFFF) if first <= most < last]
    for bits in range(6, 6 * size, 6):  # of the bytes behind one that differs
        low = (1 << bits) - 1
        if first >> bits != last >> bits:
            ends += [first | low] if first & low else []
            ends += [(last & ~low) - 1] if last & low != low else []
    if not ends:
        yield tuple(zip(chr(first).encode(), chr(last).encode(), strict=True))
        return
    yield from _split(first, ends[0])
    yield from _split(ends[0] + 1, last)


def determine(expression: str) -> tuple[list[dict[int, int]], list[int]]:
    """Returns the state after each byte, for each state from the first on, and those that may end.

    TooLargeError if there are too many.
    """
    parts = _Nondeterministic()
    first = parts.closure([parts.add_expression(expression)])
    # Bytes that all moves treat alike are a class, which begins at one of these.
    ranges = {part for moves in parts.moves for part, _ in moves}
    starts = sorted({0, 256}.union(*((low, high + 1) for low, high in ranges)))
    classes = {part: [x for x in starts if part[0] <= x <= part[1]] for part in ranges}
    ends = dict(itertools.pairwise(starts))
    sets, numbers, rows = [first], {first: 0}, list[dict[int, int]]()
    reached: dict[frozenset[int], int] = {}  # by the states before the moves without a byte
    for states in sets:  # which grows
        targets = collections.defaultdict[int, set[int]](set)
        for part, target in (move for state in states for move in parts.moves[state]):
            for start in classes[part]:
                targets[start].add(target)
        row = {}
        for start, same in ((start, frozenset(x)) for start, x in targets.items()):
            if same not in reached:
                closed = parts.closure(same)
                reached[same] = numbers.setdefault(closed, len(sets))
                if reached[same] == len(sets):
                    sets.append(closed)
                    _check_size(len(sets))
            row.update(dict.fromkeys(range(start, ends[start]), reached[same]))
        rows.append(row)
    return rows, [number for number, x in enumerate(sets) if parts.end in x]


def _check_size(states: int) -> None:
    if states > MOST_STATES:
        raise TooLargeError(f"it needs more than {MOST_STATES:,} states")


def answer(request: Mapping[str, str]) -> dict[str, Any]:
    """Returns the answer to a request, see above."""
    try:
        pattern = request.get("pattern")
        if pattern is None:
            # The package can also make automata, but 0.2.14 loses transitions: "(ab)*" has none
            # by "a".
            outlines = importlib.import_module("outlines_core.json_schema")
            pattern = outlines.build_regex_from_schema(request["schema"], _WHITESPACE)
        rows, may_end = determine(pattern)
        table = array.array("i", [NO_STATE]) * (256 * len(rows))
        for number, row in enumerate(rows):
            for byte, state in row.items():
                table[256 * number + byte] = state
    except MemoryError:
        return _error(f"it needs more than {MOST_BYTES >> 20:,} MiB of memory", is_too_large=True)
    except RecursionError:
        return _error("it is nested too deeply", is_too_large=True)
    except TooLargeError as error:
        return _error(str(error), is_too_large=True)
    except Exception as error:
        return _error(" ".join(str(error).split())[:200], is_too_large=False)
    after = base64.b64encode(zlib.compress(table.tobytes(), 1)).decode()
    return {"states": len(rows), "after": after, "may_end": may_end}


def _error(reason: str, *, is_too_large: bool) -> dict[str, Any]:
    return {"error": reason, "is_too_large": is_too_large}


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    for line in sys.stdin:
        most = int(time.process_time()) + MOST_CPU_SECS
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    _main()
