"""Comparison of a checkpoint's values with the digests of its step in the run's ledger.

A ledger has a file with a line of JSON for every step with digests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from absl import logging

from mtfrun import mtf, processes
from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, open_regular, parse_json
from mtfrun.files.digests import MODULUS, digest_of_part
from mtfrun.files.errors import DamagedCheckpointError, RunDirError, run_dir_errors

VARIABLES = "ledger_variables.jsonl"
"""The name of the file with the digests, in a run directory."""


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
                digests = read_digests(directory.parent, step)
            except RunDirError as error:
                logging.warning("ckpt-%d is not compared with the ledger: %s", step, error)
        return cls(directory, step, digests)

    def check(self, digests: Mapping[str, int]) -> None:
        """Raises DamagedCheckpointError if the ledger has other digests."""
        paths = [p for p, digest in digests.items() if self.by_path.get(p, digest) != digest]
        if not paths:
            return
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        name = f"{self.directory}/ckpt-{self.step}"
        earlier = max((step for step in list_steps(self.directory) if step < self.step), default=0)
        remedy = f"move {name}.* away to use the checkpoint of step {earlier}"
        raise DamagedCheckpointError(
            f"{name} has other values of {paths[0]}{more} than the run's ledger has recorded: it "
            f"was changed after it was saved; {remedy if earlier else 'train again elsewhere'}"
        )

    def check_value(self, path: str, value: np.ndarray) -> None:
        self.check({path: digest_of_part(path, value, [0] * value.ndim, value.shape)})


def read_digests(directory: pathlib.Path, step: int) -> dict[str, int]:
    """Returns the digests of a run's variables after a step by path, maybe empty.

    RunDirError if they are damaged.
    """
    begin = b'{"step": %d, ' % step  # other lines are not parsed
    digests: dict[str, int] = {}
    path = directory / VARIABLES
    with (
        run_dir_errors(f"{path} is damaged or was changed", "", OSError, ValueError),
        contextlib.suppress(FileNotFoundError),
        open_regular(path) as file,
    ):
        for line in iter(lambda: file.readline(LARGEST_TEXT), b""):
            if line.startswith(begin) and line.endswith(b"\n"):  # else it is being written
                _, digests = parse_digests(line)  # the last line of a step counts
    return digests


def format_digests(step: int, digests: Mapping[str, int]) -> bytes:
    """Returns the line of a step in the file `VARIABLES`."""
    texts = {path: f"{digest:016x}" for path, digest in digests.items()}
    total = sum(digests.values()) % MODULUS
    return f"{json.dumps({'step': step, 'sum': f'{total:016x}', 'digests': texts})}\n".encode()


def parse_digests(line: bytes) -> tuple[int, dict[str, int]]:
    """Returns the step and the digests of a line; InputError if it is damaged."""
    try:
        fields = parse_json(line)
        digests = {str(path): int(digest, 16) for path, digest in fields["digests"].items()}
        step, total = int(fields["step"]), int(fields["sum"], 16)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError("a line has other fields") from error
    if sum(digests.values()) % MODULUS != total:
        raise InputError(f"the digests of step {step:,} do not have their sum")
    return step, digests


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
    local_digests = [
        sum(
            digest_of_part(path, np.asarray(part.value), part.begin, variable.shape.as_list())
            for part in parts
        )
        % MODULUS
        for (path, variable), parts in zip(variables.items(), shards, strict=True)
    ]
    gathered = processes.gather(local_digests, "digests of the variables")
    sums = (sum(digests) % MODULUS for digests in zip(*gathered, strict=True))
    return dict(zip(variables, sums, strict=True))
