"""The values of a checkpoint, compared with the digests that the run's ledger has of its step."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from mtfrun import mtf, processes
from mtfrun.digests import MODULUS, digest_of_part
from mtfrun.rundir.checkpoints.partial_files import list_steps
from mtfrun.rundir.errors import DamagedCheckpointError, RunDirError
from mtfrun.rundir.ledger import LEDGER, recorded_variables


@dataclasses.dataclass(frozen=True)
class RecordedDigests:
    """The digests of a checkpoint's variables by path, empty if no ledger has them.

    A ledger belongs to the checkpoints in the directory beside it, not to those set aside.
    """

    directory: pathlib.Path
    step: int
    by_path: Mapping[str, int]

    @classmethod
    def of(cls, directory: pathlib.Path, step: int) -> RecordedDigests:
        digests: Mapping[str, int] = {}
        if directory.name == "checkpoints":
            try:
                digests = recorded_variables(directory.parent, step)
            except RunDirError as error:
                logging.warning("ckpt-%d is not compared with the ledger: %s", step, error)
        return cls(directory, step, digests)

    def check(self, digests: Mapping[str, int]) -> None:
        """Raises DamagedCheckpointError if the ledger has other digests."""
        paths = [p for p, digest in digests.items() if self.by_path.get(p, digest) != digest]
        if not paths:
            return
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        earlier = max((step for step in list_steps(self.directory) if step < self.step), default=0)
        remedy = "train again in another --model_dir"
        if earlier:
            files = f"{self.directory}/ckpt-{self.step}.*"
            remedy = f"move {files} away to use the checkpoint of step {earlier}"
        raise DamagedCheckpointError(
            f"{self.directory}/ckpt-{self.step} has other values of {paths[0]}{more} than "
            f"{self.directory.parent / LEDGER} has recorded of step {self.step}: it was changed "
            f"after it was saved; {remedy}"
        )

    def check_value(self, path: str, value: np.ndarray) -> None:
        self.check({path: digest_of_part(path, value, [0] * value.ndim, value.shape)})


def check_restored(
    directory: pathlib.Path, step: int, variables: Mapping[str, tf.Variable]
) -> None:
    """Compares raw variables by path with the ledger of a checkpoint. Collective."""
    by_path = processes.by_first(lambda: dict(RecordedDigests.of(directory, step).by_path))
    if by_path:
        RecordedDigests(directory, step, by_path).check(digests_of_variables(variables))


def digests_of_variables(variables: Mapping[str, tf.Variable]) -> dict[str, int]:
    """Returns the digests of raw variables by path, which no layout changes. Collective."""
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
