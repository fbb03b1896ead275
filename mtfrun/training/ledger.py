"""The record of every step in the ledger of a run."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf, processes
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.recorded_digests import digests_of_variables
from mtfrun.rundir.ledger import LedgerRecord, LedgerWriter, bits_of
from mtfrun.training.host_loop import HostRecord
from mtfrun.training.state import TrainState

# Steps between digests of all variables, which take 0.1 ms each and 0.4 ns an entry and process.
_DIGEST_EVERY = 1000


class Ledger:
    """Writes the ledger of a run, in the first process; see `rundir.ledger`."""

    def __init__(self, state: TrainState, run: RunDirectory) -> None:
        self._state = state
        self._digests: Mapping[str, int] | None = None  # after the last record's step
        self._writer = LedgerWriter(run.path) if processes.is_first() else None

    def begin(self, step: int) -> None:
        """Drops the records of steps after this one, with whose variables it begins. Collective."""
        if self._writer is not None:
            self._writer.begin(step or -1)
            if not step:
                self._writer.append([LedgerRecord(0, 0, 0, 0, 0, 0)])
        self._add_digests()

    def next_step(self, step: int) -> int:
        """Returns the next step with a digest of the variables, where a host loop must end."""
        return (step // _DIGEST_EVERY + 1) * _DIGEST_EVERY

    def add(self, host: HostRecord) -> None:
        """Writes the records of a host loop. Collective."""
        if self._writer is not None:
            self._writer.append(self._records(host))
        self._digests = None
        if (host.step + host.count) % _DIGEST_EVERY == 0:
            self._add_digests()

    def _records(self, host: HostRecord) -> list[LedgerRecord]:
        record, seed = host.record, self._state.seed
        numbers = (record.objective.total, record.objective.weight, record.gradient_norm)
        losses, weights, norms = (bits_of(x[: host.count]) for x in numbers)
        return [
            LedgerRecord(
                host.step + 1 + i,
                host.digests[i],
                mtf.random_key(seed, host.step + i).number,
                losses[i],
                weights[i],
                norms[i],
            )
            for i in range(host.count)
        ]

    def sync(self) -> None:
        """Forces the records to the disk: a checkpoint of the last one follows. Collective."""
        self._add_digests()
        if self._writer is not None:
            self._writer.sync()

    def _add_digests(self) -> None:
        digests = digests_of_variables(self._state.storage())
        # An action may have changed variables since they were recorded.
        if self._writer is not None and digests != self._digests:
            self._writer.add_digests(digests)
        self._digests = digests
