"""The record of every step in the ledger of a run."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf, processes
from mtfrun.digests import MODULUS, digest_of_part
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.ledger import LedgerRecord, LedgerWriter, bits_of
from mtfrun.training.host_loop import HostRecord
from mtfrun.training.state import TrainState

# Steps between digests of all variables, which take 30 ns an entry and process.
_DIGEST_EVERY = 1000


class Ledger:
    """Writes the ledger of a run, in the first process; see `rundir.ledger`."""

    def __init__(self, state: TrainState, run: RunDirectory, train_steps: int) -> None:
        self._state, self._train_steps = state, train_steps
        self._writer = LedgerWriter(run.path) if processes.is_first() else None

    def begin(self, step: int) -> None:
        """Drops the records of steps after this one, the present step."""
        if self._writer is not None:
            self._writer.begin(step)

    def next_step(self, step: int) -> int:
        """Returns the next step with a digest of the variables, where a host loop must end."""
        return (step // _DIGEST_EVERY + 1) * _DIGEST_EVERY

    def add(self, host: HostRecord) -> None:
        """Writes the records of a host loop. Collective."""
        last = host.step + host.count
        is_due = last % _DIGEST_EVERY == 0 or last == self._train_steps
        variables = digest_of_variables(self._state) if is_due else 0
        if self._writer is None:
            return
        record, seed = host.record, self._state.seed
        numbers = (record.objective.total, record.objective.weight, record.gradient_norm)
        losses, weights, norms = (bits_of(x[: host.count]) for x in numbers)
        self._writer.append(
            [
                LedgerRecord(
                    step,
                    host.digests[i],
                    mtf.random_key(seed, step - 1).number,
                    losses[i],
                    weights[i],
                    norms[i],
                    variables if step == last else 0,
                )
                for i, step in enumerate(range(host.step + 1, last + 1))
            ]
        )

    def sync(self) -> None:
        """Forces the records to the disk: a checkpoint of the last one follows."""
        if self._writer is not None:
            self._writer.sync()


def digest_of_variables(state: TrainState) -> int:
    """Returns the digest of what a checkpoint stores, which no layout changes. Collective."""
    variables = state.storage()
    shards = mtf.owned_shards(variables.values())
    own = sum(
        digest_of_part(path, np.asarray(part.value), part.begin, variable.shape.as_list())
        for (path, variable), parts in zip(variables.items(), shards, strict=True)
        for part in parts
    )
    total: int = sum(processes.gather(own % MODULUS, "digest of the variables")) % MODULUS
    return total
