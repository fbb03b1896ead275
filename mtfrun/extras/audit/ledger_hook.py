"""The record of every step in the ledger of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mtfrun import mtf, processes
from mtfrun.checkpoints.recorded_digests import digests_of_variables
from mtfrun.extras.audit.ledger import LedgerRecord, LedgerWriter, bits_of
from mtfrun.rundir import RunDirectory
from mtfrun.training.hooks.hook import Hook, HostRecord
from mtfrun.training.state import TrainState

# Steps between digests of all variables: 0.1 ms a variable, and 0.4 ns an entry and process.
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
        """Drops the records of steps after `step`, with whose variables the training begins."""
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
            objective, norms = record.record.objective, record.record.gradient_norm
            columns = (bits_of(x) for x in (objective.total, objective.weight, norms))
            steps = range(record.step, record.step + record.count)
            self._writer.append(
                LedgerRecord(step + 1, digest, mtf.random_key(self._state.seed, step).number, *bits)
                for step, digest, *bits in zip(steps, record.digests, *columns, strict=False)
            )
        self._digests = None
        step = record.step + record.count
        if step % _DIGEST_EVERY == 0 or step in self._digest_at:
            self._add_digests()

    def before_save(self, step: int) -> None:
        """Forces the records to the disk, before the checkpoint of the last step."""
        self._add_digests()
        if self._writer is not None:
            self._writer.sync()

    def _add_digests(self) -> None:
        digests = digests_of_variables(self._state.storage())
        # An action may have changed variables since they were recorded.
        if self._writer is not None and digests != self._digests:
            self._writer.add_digests(digests)
        self._digests = digests
