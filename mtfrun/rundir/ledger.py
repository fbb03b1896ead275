"""The ledger of a training: a short binary record of every step, chained by hashes.

A record has what a step read and computed, so that two trainings can be compared bit by bit, and a
step can be computed again and compared. Its hash includes the record before: a record that was
changed, or a part that was cut out, shows.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import struct
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from absl import logging

from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.untrusted import open_regular, open_to_write

LEDGER = "ledger"
"""The file's name in a run directory."""

_HEADER = b"mtfrun ledger 1\n"
_FIELDS = struct.Struct("<QQIIIIQ")
_HASH_BYTES = 16
_SIZE = _FIELDS.size + _HASH_BYTES


class LedgerRecord(NamedTuple):
    """A step; digests are of `mtfrun.digests`, numbers the bits of float32.

    Attributes:
      step: the number of finished steps after it.
      batch: a digest of the features' arrays.
      key: the bits of the step's random key.
      loss, weight: of the loss that is differentiated, a sum, and what divides it.
      gradient_norm: before clipping.
      variables: a digest of all variables, slots and averages after the step; 0 for none.
    """

    step: int
    batch: int
    key: int
    loss: int
    weight: int
    gradient_norm: int
    variables: int = 0

    @property
    def mean_loss(self) -> float:
        return value_of(self.loss) / max(value_of(self.weight), 1.0)


def bits_of(values: npt.ArrayLike) -> list[int]:
    """Returns the bits of each of some float32 values."""
    bits: list[int] = np.ascontiguousarray(values, np.float32).view(np.uint32).tolist()
    return bits


def value_of(bits: int) -> float:
    """Returns the float32 value with these bits."""
    return float(np.uint32(bits).view(np.float32))


def newest_recorded_step(directory: str | os.PathLike[str]) -> int:
    """Returns the last step of a ledger that may be written at present; 0 for none."""
    try:
        with open_regular(pathlib.Path(directory, LEDGER)) as file:
            number = (os.fstat(file.fileno()).st_size - len(_HEADER)) // _SIZE
            return _read_record(file, number - 1)[0].step if number > 0 else 0
    except (OSError, struct.error):  # none yet, or it has just become shorter
        return 0


class LedgerWriter:
    """Appends to the ledger of a run, whose lock is held. A failure to write is a warning, once.

    What a call has written outlives the process, and after `sync` the machine.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = pathlib.Path(directory, LEDGER)
        self._hash = bytes(_HASH_BYTES)
        self._has_failed = False

    def begin(self, step: int) -> None:
        """Drops the records of steps after this one, which are computed again."""
        try:
            with open_to_write(self._path, "rb+") as file:
                size = len(_HEADER)
                if file.read(size) != _HEADER:
                    file.truncate(0)
                    file.seek(0)
                    file.write(_HEADER)
                number = (os.fstat(file.fileno()).st_size - size) // _SIZE
                while number and _read_record(file, number - 1)[0].step > step:
                    number -= 1
                if number:
                    _, self._hash = _read_record(file, number - 1)
                file.truncate(size + number * _SIZE)
        except OSError as error:
            self._warn(error)

    def append(self, records: Sequence[LedgerRecord]) -> None:
        content = bytearray()
        for record in records:
            fields = _FIELDS.pack(*record)
            self._hash = _chain(self._hash, fields)
            content += fields + self._hash
        try:
            if not self._has_failed:
                with open_to_write(self._path, "ab") as file:
                    file.write(content)
        except OSError as error:
            self._warn(error)

    def sync(self) -> None:
        """Forces the records to the disk, as for a checkpoint that follows."""
        try:
            if not self._has_failed:
                with open_to_write(self._path, "ab") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            logging.warning("cannot write %s: %s; the ledger ends", self._path, reason(error))


def read_ledger(directory: str | os.PathLike[str]) -> Iterator[LedgerRecord]:
    """Yields the records of a run; RunDirError if there are none, or where the chain is broken.

    A record that is being written is left out.
    """
    path = pathlib.Path(directory, LEDGER)
    try:
        with open_regular(path) as file:
            if file.read(len(_HEADER)) != _HEADER:
                raise RunDirError(f"{path} is not a ledger of this version of mtfrun")
            former, step = bytes(_HASH_BYTES), 0
            while len(content := file.read(_SIZE)) == _SIZE:
                fields, former = content[: _FIELDS.size], _chain(former, content[: _FIELDS.size])
                record = LedgerRecord(*_FIELDS.unpack(fields))
                if content[_FIELDS.size :] != former or record.step <= step:
                    raise RunDirError(
                        f"{path} is damaged or was changed: the record behind step {step:,} does "
                        "not continue it"
                    )
                yield record
                step = record.step
    except FileNotFoundError as error:
        raise RunDirError(f"{directory} has no ledger: train writes it from now on") from error
    except OSError as error:
        raise RunDirError(f"cannot read {path}: {reason(error)}") from error


def _chain(former: bytes, fields: bytes) -> bytes:
    return hashlib.blake2b(former + fields, digest_size=_HASH_BYTES).digest()


def _read_record(file: BinaryIO, index: int) -> tuple[LedgerRecord, bytes]:
    file.seek(len(_HEADER) + index * _SIZE)
    content = file.read(_SIZE)
    fields, digest = content[: _FIELDS.size], content[_FIELDS.size :]
    return LedgerRecord(*_FIELDS.unpack(fields)), digest
