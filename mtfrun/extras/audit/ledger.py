"""The ledger of a training: a short binary record of every step, chained by hashes.

A record says what a step read and computed, so that two trainings can be compared bit by bit, and
a step can be replayed and compared. Its hash includes the hash of the record before it: records
that were changed or removed are noticed. The record of step 0 only has the digest of the initial
values. A second file has a line of JSON for every digest of all variables: the digest of each
variable; together they add up to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from absl import logging

from mtfrun.checkpoints.recorded_digests import VARIABLES as DIGESTS
from mtfrun.checkpoints.recorded_digests import format_digests, parse_digests, read_digests
from mtfrun.errors.untrusted import open_regular, open_to_write
from mtfrun.files.digests import MODULUS
from mtfrun.files.errors import RunDirError, reason

LEDGER = "ledger"
"""The file's name in a run directory."""

_HEADER = b"mtfrun ledger 2\n"
_HASH_BYTES = 16
_FIELDS = struct.Struct("<QQIIIIQ")
_ENTRY = struct.Struct(f"{_FIELDS.format}{_HASH_BYTES}s")


TOLERANCE = 1e-3
"""Losses and gradient norms count as equal on another mesh up to this relative difference."""

# What may differ, causes before effects.
INITIAL_VALUES, BATCH, KEY, LOSS, GRADIENT_NORM, VARIABLES = (
    *("initial values", "batch", "random key", "loss", "gradient norm", "variables"),
)


class LedgerRecord(NamedTuple):
    """A step, with digests of `mtfrun.files.digests`, and float32 numbers as their bits."""

    step: int  # the number of finished steps after it; 0 for the initial values
    batch: int  # a digest of the features' arrays
    key: int  # the bits of the step's random key
    loss: int  # the sum of the differentiated loss
    weight: int  # the divisor of `loss`
    gradient_norm: int  # norm before clipping
    variables: int = 0  # a digest of all variables, slots and averages after the step; 0 for none

    @property
    def mean_loss(self) -> float:
        return value_of(self.loss) / max(value_of(self.weight), 1.0)

    def columns(self) -> list[tuple[str, object, str]]:
        """Returns names, bits and texts of what was read and computed, causes before effects."""
        variables = f"{self.variables:016x}"
        if not self.step:
            return [(INITIAL_VALUES, self.variables, variables)]
        return [
            (BATCH, self.batch, f"{self.batch:016x}"),
            (KEY, self.key, f"{self.key:08x}"),
            (LOSS, (self.loss, self.weight), f"{self.mean_loss:.9g}"),
            (GRADIENT_NORM, self.gradient_norm, f"{value_of(self.gradient_norm):.9g}"),
            (VARIABLES, self.variables, variables),
        ]


def bits_of(values: npt.ArrayLike) -> list[int]:
    """Returns the bits of float32 values."""
    bits: list[int] = np.ascontiguousarray(values, np.float32).view(np.uint32).tolist()
    return bits


def value_of(bits: int) -> float:
    """Returns the float32 value with these bits."""
    return float(np.uint32(bits).view(np.float32))


def newest_recorded_step(directory: str | os.PathLike[str]) -> int:
    """Returns the last step of a ledger, to which a training may be writing; 0 for none."""
    with contextlib.suppress(OSError), open_regular(pathlib.Path(directory, LEDGER)) as file:
        content = file.read()
        number = _number_of_entries(content)
        return max((x.step for x, _ in _entries(content, max(0, number - 1), number)), default=0)
    return 0


def _number_of_entries(content: bytes) -> int:
    """Returns the number of complete records in a file: the last may be half written."""
    return (len(content) - len(_HEADER)) // _ENTRY.size


def _entries(content: bytes, begin: int, end: int) -> Iterator[tuple[LedgerRecord, bytes]]:
    """Yields the records begin, ..., end - 1 of a file with their hashes."""
    first, last = (len(_HEADER) + number * _ENTRY.size for number in (begin, end))
    for *fields, digest in _ENTRY.iter_unpack(memoryview(content)[first:last]):
        yield LedgerRecord(*fields), digest


class LedgerWriter:
    """Appends to the ledger of a run whose lock is held; the first failure to write is a warning.

    Records survive a crash of the process and, after `sync`, of the machine.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(directory, LEDGER)
        self._variables = pathlib.Path(directory, DIGESTS)
        self._hash = self._former_hash = bytes(_HASH_BYTES)
        self._last: LedgerRecord | None = None
        self._has_failed = False

    def begin(self, step: int) -> None:
        """Drops the records of steps after this one, which are computed again.

        Digests are dropped from this step on, since a training may begin with other variables.
        """
        with self._warning(), open_to_write(self._path, "rb+") as file:
            content = file.read()
            if not content.startswith(_HEADER):
                content = _HEADER
                file.truncate(0)
                file.seek(0)
                file.write(content)
            # From the end: few records follow a checkpoint, and millions may precede it.
            number = _number_of_entries(content)
            while any(x.step > step for x, _ in _entries(content, max(0, number - 1), number)):
                number -= 1
            for record, digest in _entries(content, max(0, number - 2), number):
                self._last, self._former_hash, self._hash = record, self._hash, digest
            file.truncate(len(_HEADER) + number * _ENTRY.size)
        with self._warning(), open_to_write(self._variables, "rb+") as file:
            end = 0
            for line in file.read().splitlines(keepends=True):
                if not line.endswith(b"\n") or parse_digests(line)[0] >= step:
                    break
                end += len(line)
            file.truncate(end)

    def append(self, records: Iterable[LedgerRecord]) -> None:
        content = bytearray()
        for record in records:
            fields = _FIELDS.pack(*record)
            self._last, self._former_hash = record, self._hash
            self._hash = _chain(self._hash, fields)
            content += fields + self._hash
        self._write(self._path, bytes(content))

    def add_digests(self, digests: Mapping[str, int]) -> None:
        """Adds digests of all variables, by path, after the step of the last record.

        That record is rewritten with their sum.
        """
        if self._last is None:
            return
        self._last = self._last._replace(variables=sum(digests.values()) % MODULUS)
        fields = _FIELDS.pack(*self._last)
        self._hash = _chain(self._former_hash, fields)
        self._write(self._variables, format_digests(self._last.step, digests))
        self._write(self._path, fields + self._hash, replaces_last=True)

    def sync(self) -> None:
        """Forces the records to the disk, before a checkpoint."""
        self._write(self._path, b"", syncs=True)

    def _write(
        self,
        path: pathlib.Path,
        content: bytes,
        *,
        replaces_last: bool = False,
        syncs: bool = False,
    ) -> None:
        if self._has_failed:
            return
        with self._warning(), open_to_write(path, "rb+" if replaces_last else "ab") as file:
            if replaces_last:
                file.seek(-_ENTRY.size, os.SEEK_END)
            file.write(content)
            if syncs:
                os.fsync(file.fileno())

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if not self._has_failed:
                logging.warning("cannot write %s: %s; the ledger ends", self._path, reason(error))
            self._has_failed = True


def read_ledger(directory: str | os.PathLike[str]) -> Iterator[LedgerRecord]:
    """Yields the complete records; RunDirError without a ledger, or where the chain is broken."""
    path = pathlib.Path(directory, LEDGER)
    try:
        with open_regular(path) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise RunDirError(f"{directory} has no ledger: train writes it from now on") from error
    except OSError as error:
        raise RunDirError(f"cannot read {path}: {reason(error)}") from error
    if not content.startswith(_HEADER):
        raise RunDirError(f"{path} is not a ledger of this version of mtfrun")
    former, step = bytes(_HASH_BYTES), -1
    for record, digest in _entries(content, 0, _number_of_entries(content)):
        former = _chain(former, _FIELDS.pack(*record))
        if digest != former or record.step <= step:
            rule = f"the record behind step {step:,} does not continue it"
            raise RunDirError(f"{path} is damaged or was changed: {rule}")
        yield record
        step = record.step


def _chain(former: bytes, fields: bytes) -> bytes:
    return hashlib.blake2b(former + fields, digest_size=_HASH_BYTES).digest()


class Difference(NamedTuple):
    """The first difference: the step, what differs, and the two values as text.

    `variables` are the paths of variables that differ, if there are digests of each.
    """

    step: int
    what: str
    a: str
    b: str
    variables: tuple[str, ...] = ()

    def describe(self, second: str) -> str:
        """Returns "the loss of step 7 differs: 5.1, and 5.2 in B", if `second` is "in B"."""
        place = f" of step {self.step:,}" if self.step else ""
        are = "differ" if self.what.endswith("s") and self.what != LOSS else "differs"
        text = f"the {self.what}{place} {are}: {self.a}, and {self.b} {second}"
        if self.variables:
            more = len(self.variables) - 1
            text += f"; of {self.variables[0]}{f' and {more:,} more' if more else ''}"
        return text


class RunLedger(NamedTuple):
    """The records of a run by step."""

    directory: pathlib.Path
    records: Mapping[int, LedgerRecord]

    @classmethod
    def of(cls, directory: str | os.PathLike[str]) -> RunLedger:
        """Raises RunDirError if the run has no ledger, or its ledger is damaged."""
        records = {record.step: record for record in read_ledger(directory)}
        return cls(pathlib.Path(directory), records)

    def digests(self, step: int) -> dict[str, int]:
        """Returns the digests of variables by path, empty without any; RunDirError if damaged."""
        digests = read_digests(self.directory, step)
        if digests and sum(digests.values()) % MODULUS != self.records[step].variables:
            path = self.directory / DIGESTS
            raise RunDirError(f"{path} has other digests of step {step:,} than the ledger")
        return digests

    def pairs(self, other: RunLedger) -> dict[int, tuple[LedgerRecord, LedgerRecord]]:
        """Returns the records of the steps that both have, in order."""
        steps = sorted(self.records.keys() & other.records.keys())
        return {step: (self.records[step], other.records[step]) for step in steps}


@dataclasses.dataclass(frozen=True)
class LedgerComparison:
    """A comparison of the steps that both ledgers have."""

    steps: int  # their number
    # whether bits were compared; otherwise losses and norms are equal within `TOLERANCE`, and
    # digests of variables after the first step are not compared
    is_exact: bool
    # the largest relative difference of a loss or a gradient norm up to `difference`
    largest: float
    difference: Difference | None


def compare_ledgers(a: RunLedger, b: RunLedger, *, exact: bool) -> LedgerComparison:
    pairs = a.pairs(b)
    steps = len([step for step in pairs if step])
    largest = 0.0
    for step, (x, y) in pairs.items():
        norms = value_of(x.gradient_norm), value_of(y.gradient_norm)
        sizes = {
            LOSS: relative_difference(x.mean_loss, y.mean_loss),
            GRADIENT_NORM: relative_difference(*norms),
        }
        largest = max(largest, *sizes.values())
        has_digests = exact and x.variables and y.variables
        for (what, bits, text), (_, other_bits, other_text) in zip(
            x.columns(), y.columns(), strict=True
        ):
            is_close = not exact and sizes.get(what, math.inf) <= TOLERANCE
            if bits == other_bits or is_close or (what == VARIABLES and not has_digests):
                continue
            paths: Iterable[str] = ()
            if what in (INITIAL_VALUES, VARIABLES):
                old, new = a.digests(step), b.digests(step)
                paths = (p for p in {**old, **new} if old.get(p) != new.get(p))
            difference = Difference(step, what, text, other_text, tuple(paths))
            return LedgerComparison(steps, exact, largest, difference)
    return LedgerComparison(steps, exact, largest, None)


def relative_difference(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    difference = abs(a - b) / max(abs(a), abs(b))
    return difference if math.isfinite(difference) else math.inf
