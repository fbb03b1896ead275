"""The record of every step in the ledger of a run."""

from __future__ import annotations

import numpy as np

from mtfrun import mtf, processes
from mtfrun.digests import MODULUS, digest_of_part
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.ledger import LedgerRecord, LedgerWriter, bits_of
from mtfrun.training.host_loop import HostRecord
from mtfrun.training.state import TrainState

# Steps between digests of all variables, which take 0.4 ns an entry and process.
_DIGEST_EVERY = 1000


class Ledger:
    """Writes the ledger of a run, in the first process; see `rundir.ledger`."""

    def __init__(self, state: TrainState, run: RunDirectory, train_steps: int) -> None:
        self._state, self._train_steps = state, train_steps
        self._writer = LedgerWriter(run.path) if processes.is_first() else None

    def begin(self, step: int) -> None:
        """Drops the records after this step, the present one; adds that of step 0. Collective."""
        digests = {} if step else digests_of_variables(self._state)
        if self._writer is None:
            return
        self._writer.begin(step or -1)
        if not step:
            total = sum(digests.values()) % MODULUS
            self._writer.append([LedgerRecord(0, 0, 0, 0, 0, 0, total)], digests)

    def next_step(self, step: int) -> int:
        """Returns the next step with a digest of the variables, where a host loop must end."""
        return (step // _DIGEST_EVERY + 1) * _DIGEST_EVERY

    def add(self, host: HostRecord) -> None:
        """Writes the records of a host loop. Collective."""
        last = host.step + host.count
        is_due = last % _DIGEST_EVERY == 0 or last == self._train_steps
        digests = digests_of_variables(self._state) if is_due else None
        if self._writer is None:
            return
        variables = sum((digests or {}).values()) % MODULUS
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
            ],
            digests,
        )

    def sync(self) -> None:
        """Forces the records to the disk: a checkpoint of the last one follows."""
        if self._writer is not None:
            self._writer.sync()


def digests_of_variables(state: TrainState) -> dict[str, int]:
    """Returns the digests of what a checkpoint stores, which no layout changes. Collective."""
    variables = state.storage()
    shards = mtf.owned_shards(variables.values())
    own = [
        sum(
            digest_of_part(path, np.asarray(part.value), part.begin, variable.shape.as_list())
            for part in parts
        )
        % MODULUS
        for (path, variable), parts in zip(variables.items(), shards, strict=True)
    ]
    of_processes = processes.gather(own, "digests of the variables")
    sums = (sum(of_variable) % MODULUS for of_variable in zip(*of_processes, strict=True))
    return dict(zip(variables, sums, strict=True))
