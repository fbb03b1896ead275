"""The record of every step in the ledger of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mtfrun import mtf, processes
from mtfrun.checkpoints.recorded_digests import digests_of_variables
from mtfrun.extras.audit.ledger import LedgerRecord, LedgerWriter, bits_of
from mtfrun.rundir import RunDirectory
from mtfrun.training.hooks.hook import Hook, HostRecord
from mtfrun.training.state import TrainState

# Steps between digests of all variables, which take 0.1 ms each and 0.4 ns an entry and process.
_DIGEST_EVERY = 1000


class Ledger(Hook):
    """Writes the ledger of a run, in the first process; see `audit.ledger`.

    Digests of all variables are added after every thousandth step, and after those in `digest_at`.
    """

    cause = "ledger"
    reads_digests = True

    def __init__(self, digest_at: Collection[int] = ()) -> None:
        self._digest_at = digest_at

    def begin(self, state: TrainState, run: RunDirectory, step: int) -> None:
        """Drops the records of steps after this one, with whose variables it begins."""
        self._state = state
        self._digests: Mapping[str, int] | None = None  # after the last record's step
        self._writer = LedgerWriter(run.path) if processes.is_first() else None
        if self._writer is not None:
            self._writer.begin(step or -1)
            if not step:
                self._writer.append([LedgerRecord(0, 0, 0, 0, 0, 0)])
        self._add_digests()

    def next_step(self, step: int) -> int:
        """Returns the next step with a digest of the variables."""
        multiple = (step // _DIGEST_EVERY + 1) * _DIGEST_EVERY
        return min([multiple, *(x for x in self._digest_at if x > step)])

    def after_steps(self, record: HostRecord) -> None:
        if self._writer is not None:
            self._writer.append(self._records(record))
        self._digests = None
        step = record.step + record.count
        if step % _DIGEST_EVERY == 0 or step in self._digest_at:
            self._add_digests()

    def before_save(self, step: int) -> None:
        """Forces the records to the disk: a checkpoint of the last one follows."""
        self._add_digests()
        if self._writer is not None:
            self._writer.sync()

    def _records(self, host: HostRecord) -> list[LedgerRecord]:
        record, seed = host.record, self._state.seed
        values = (record.objective.total, record.objective.weight, record.gradient_norm)
        losses, weights, norms = (bits_of(x[: host.count]) for x in values)
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

    def _add_digests(self) -> None:
        digests = digests_of_variables(self._state.storage())
        # An action may have changed variables since they were recorded.
        if self._writer is not None and digests != self._digests:
            self._writer.add_digests(digests)
        self._digests = digests
