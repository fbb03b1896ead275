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
import importlib
import json
import resource
import sys
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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

# What follows some bytes of a character: (byte, the character's key or what follows then), ...
Node: TypeAlias = tuple[tuple[int, Any], ...]

# The second bytes after some first ones: longer codes than needed, surrogates and numbers above
# U+10FFFF are no UTF-8. RFC 3629, section 4.
_SECOND = {0xE0: (0xA0, 0xC0), 0xED: (0x80, 0xA0), 0xF0: (0x90, 0xC0), 0xF4: (0x80, 0x90)}


class TooLargeError(Exception):
    """A pattern needs too many states."""


class Machine(NamedTuple):
    """A deterministic automaton over characters, which begins in state 0.

    Attributes:
      after: next state by character, for each state.
      keys: the keys of characters.
      other: the key of all other characters; None if they occur nowhere.
    """

    after: Sequence[Mapping[int, int]]
    may_end: Sequence[bool]
    keys: Mapping[str, int]
    other: int | None


class _Nondeterministic:
    """A pattern as an automaton that may be in several states.

    Thompson 1968, https://doi.org/10.1145/363347.363387: a part of a pattern leads from one state
    to another, by a character of a group or without one.
    """

    def __init__(self, pattern: Any):
        self._patterns = patterns = importlib.import_module("interegular.patterns")
        self.groups: dict[tuple[frozenset[str], bool], int] = {}
        self.moves: list[tuple[int, int] | None] = []  # (group, state)
        self.empty_moves: list[list[int]] = []
        self.end = self._add(pattern, self._new(), patterns.REFlags(0))

    def _new(self) -> int:
        if len(self.moves) >= _MOST_PARTS:
            raise TooLargeError(f"it has more than {_MOST_PARTS:,} parts, repetitions included")
        self.moves.append(None)
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
        return self._add_group(part, begin, flags)

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

    def _add_group(self, part: Any, begin: int, flags: Any) -> int:
        known = self._patterns.REFlags
        if flags & ~(known.CASE_INSENSITIVE | known.SINGLE_LINE):
            raise self._patterns.Unsupported(f"{flags} is not supported")
        if part == self._patterns._DOT:
            group = (frozenset("" if flags & known.SINGLE_LINE else "\n"), True)
        else:
            chars = part.chars
            if flags & known.CASE_INSENSITIVE:
                cases = (case for x in chars for case in (x.lower(), x.upper()))
                chars = frozenset(case for case in cases if len(case) == 1)
            group = (chars, part.negated)
        if self.moves[begin] is not None:  # a state has one move
            begin, former = self._new(), begin
            self.empty_moves[former].append(begin)
        end = self._new()
        self.moves[begin] = (self.groups.setdefault(group, len(self.groups)), end)
        return end

    def closure(self, states: Iterable[int]) -> frozenset[int]:
        """Returns the states that are reached without a character and have a move, or the end."""
        stack, seen = list(states), set(states)
        while stack:
            for state in self.empty_moves[stack.pop()]:
                if state not in seen:
                    seen.add(state)
                    stack.append(state)
        return frozenset(x for x in seen if self.moves[x] is not None or x == self.end)


def machine_of(expression: str) -> Machine:
    """Returns the automaton of a regular expression; TooLargeError."""
    interegular = importlib.import_module("interegular")
    pattern = interegular.parse_pattern(expression)
    if _has_lookahead(pattern):
        return _machine_of_interegular(pattern.to_fsm(), interegular.fsm.anything_else)
    parts = _Nondeterministic(pattern)
    groups_of = collections.defaultdict[str, list[int]](list)
    for (chars, _), number in parts.groups.items():
        for x in chars:
            groups_of[x].append(number)
    kinds: dict[tuple[int, ...], int] = {(): 0}  # of characters that are in the same groups
    keys = {x: kinds.setdefault(tuple(of_x), len(kinds)) for x, of_x in groups_of.items()}
    keys_of_group: list[list[int]] = [[] for _ in parts.groups]
    for numbers, key in kinds.items():
        for (_, negated), number in parts.groups.items():
            if (number in numbers) != negated:
                keys_of_group[number].append(key)
    first = parts.closure([0])
    sets, numbers_of, after = [first], {first: 0}, list[dict[int, int]]()
    for states in sets:  # which grows
        targets = collections.defaultdict[int, set[int]](set)
        for move in (parts.moves[state] for state in states):
            if move is not None:
                for key in keys_of_group[move[0]]:
                    targets[key].add(move[1])
        row = {}
        by_targets: dict[frozenset[int], int] = {}
        for key, ends in targets.items():
            same = frozenset(ends)
            if same not in by_targets:
                reached = parts.closure(same)
                by_targets[same] = numbers_of.setdefault(reached, len(sets))
                if by_targets[same] == len(sets):
                    sets.append(reached)
                    _check_size(len(sets))
            row[key] = by_targets[same]
        after.append(row)
    has_other = any(negated for _, negated in parts.groups)
    return Machine(after, [parts.end in x for x in sets], keys, 0 if has_other else None)


def _has_lookahead(part: Any) -> bool:
    parts = [part]
    while parts:
        part = parts.pop()
        if hasattr(part, "inner"):
            return True
        parts += [*getattr(part, "options", ()), *getattr(part, "parts", ())]
        parts += [part.base] if hasattr(part, "base") else []
    return False


def _machine_of_interegular(machine: Any, other: object) -> Machine:
    """Its time is quadratic in the number of states, which is bearable where there are few."""
    states = [machine.initial, *(machine.states - {machine.initial})]
    numbers = {state: number for number, state in enumerate(states)}
    _check_size(len(states))
    after = [
        {key: numbers[target] for key, target in machine.map.get(state, {}).items()}
        for state in states
    ]
    keys = {x: key for x, key in machine.alphabet.items() if isinstance(x, str)}
    may_end = [state in machine.finals for state in states]
    return Machine(after, may_end, keys, machine.alphabet.get(other))


def of_characters(machine: Machine) -> list[dict[int, int]]:
    """Returns the automaton over bytes: for each state the state after a byte.

    Its first states are the machine's.
    """
    after = machine.after
    root = _root(machine.keys, machine.other)
    rows: list[dict[int, int]] = [{} for _ in after]
    numbers: dict[Node, int] = {}

    def fill(node: Node, state: int, filled: dict[int, int]) -> dict[int, int]:
        """Returns the state after each byte; `filled`: those inside of characters, by node."""
        row = {}
        for byte, child in node:
            if not isinstance(child, tuple):
                number = after[state].get(child, NO_STATE)
            elif id(child) in filled:
                number = filled[id(child)]
            else:
                # States that behave alike are one.
                inner = fill(child, state, filled)
                number = numbers.setdefault(tuple(inner.items()), len(rows)) if inner else NO_STATE
                if number == len(rows):
                    rows.append(inner)
                    _check_size(len(rows))
                filled[id(child)] = number
            if number != NO_STATE:
                row[byte] = number
        return row

    for state in range(len(after)):
        rows[state] = fill(root, state, {})
    return rows


def _root(keys: Mapping[str, int], other: int | None) -> Node:
    """Returns what follows the beginning of a character."""
    listed: dict[int, Any] = {}  # keys by byte after byte
    for x, key in keys.items():
        if not "\ud800" <= x <= "\udfff":
            *begin, last = x.encode()
            inner = listed
            for byte in begin:
                inner = inner.setdefault(byte, {})
            inner[last] = key
    nodes: dict[Node, Node] = {}  # equal ones are one

    def node_of(listed: Mapping[int, Any], ranges: Sequence[range], remaining: int) -> Node:
        """`remaining`: the number of bytes of the character; 0 before the first one."""
        node = []
        for byte in (byte for part in ranges for byte in part):
            missing = remaining - 1 if remaining else _length(byte) - 1
            child: Any = listed.get(byte, {} if missing else other)
            if missing:
                second = (0x80, 0xC0) if remaining else _SECOND.get(byte, (0x80, 0xC0))
                if child or other is not None:
                    child = (
                        node_of(child, [range(*second)], missing)
                        if child
                        else empty(second, missing)
                    )
            if child is not None and child != () and child != {}:
                node.append((byte, child))
        result = tuple(node)
        return nodes.setdefault(result, result)

    cached: dict[tuple[tuple[int, int], int], Node] = {}

    def empty(second: tuple[int, int], missing: int) -> Node:
        """As `node_of`, for characters of which none is listed."""
        if (second, missing) not in cached:
            cached[second, missing] = node_of({}, [range(*second)], missing)
        return cached[second, missing]

    return node_of(listed, [range(0x80), range(0xC2, 0xF5)], 0)


def _length(first: int) -> int:
    """Returns the number of bytes of a character."""
    return 1 + (first >= 0xC0) + (first >= 0xE0) + (first >= 0xF0)


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
        machine = machine_of(pattern)
        rows = of_characters(machine)
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
    may_end = [state for state, x in enumerate(machine.may_end) if x]
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
