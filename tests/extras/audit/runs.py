"""Run directories with a ledger and a command, written without training."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mtfrun.extras.audit.ledger import LedgerRecord, LedgerWriter, bits_of

CONFIGURATION = """\
EPSILON = 1e-06
LEARNING_RATE = 0.1
LOG_EVERY = 10
experiment.Training.actions = ()
optim.Adam.learning_rate = %LEARNING_RATE
training.TrainOptions.log_every_steps = %LOG_EVERY
transformer.RMSNorm.epsilon = %EPSILON
"""
RECORD: Mapping[str, Any] = {
    "command": ["mtfrun", "train"],
    "shell": "mtfrun train",
    "step": 0,
    "configuration": CONFIGURATION,
    "hyperparameters": {
        "given": {"optim.Adam.learning_rate": "0.1", "transformer.RMSNorm.epsilon": "1e-06"},
        "defaults": {"optim.Adam.beta1": "0.9"},
    },
    "data": {"texts": {"TextFiles": {"ids": "a" * 64, "source": {"files": {"a.txt": "9 bytes"}}}}},
    "seed": 7,
    "mesh": "data:1",
    "layout": "",
    "processes": 1,
    "devices": "CPU:0",
    "threads": 2,
    "environment": {},
    "platform": "Linux",
    "processor": "a",
    "versions": {"tensorflow": "2.21.0"},
    "modules": {"mine": "b" * 64, "mtfrun.layers.norms.normalization": "a" * 64},
}
VARIABLES = {"model/a": 3, "model/b": 4}


def changed(record: Mapping[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Returns a record with another entry at a path such as "versions/tensorflow"."""
    name, _, rest = path.partition("/")
    return {**record, name: changed(record.get(name, {}), rest, value) if rest else value}


def with_setting(record: Mapping[str, Any], old: str, new: str, *names: str) -> dict[str, Any]:
    """Returns a record with another line in the configuration, and other hyperparameters."""
    text = record["configuration"]
    assert old in text
    record = {**record, "configuration": text.replace(old, new)}
    for name in names:
        value = new.partition(" = ")[2]
        given = {**record["hyperparameters"]["given"], name: value}
        record = changed(record, "hyperparameters/given", given)
    return record


def write_run(
    directory: pathlib.Path,
    *records: Mapping[str, Any],
    steps: int = 8,
    change: Callable[[LedgerRecord], LedgerRecord] = lambda record: record,
    variables: Mapping[str, int] = VARIABLES,
    digests: Mapping[int, Mapping[str, int]] = MappingProxyType({}),
) -> pathlib.Path:
    """Writes a run of these commands, `RECORD` by default, whose ledger `change` changes.

    There are digests of `variables` before step 1 and after the last step, and others by step.
    """
    (directory / "commands").mkdir(parents=True)
    for number, record in enumerate(records or [RECORD], 1):
        (directory / f"commands/{number:04d}.json").write_text(json.dumps(record))
    writer = LedgerWriter(directory)
    writer.begin(-1)
    for step in range(steps + 1):
        loss, weight, norm = bits_of([5.0 - 0.1 * step, 2.0, 1.0 / (1 + step)]) if step else [0] * 3
        written = LedgerRecord(step, step * 11, step * 13, loss, weight, norm)
        writer.append([change(written)])
        if step in (0, *digests, steps):
            writer.add_digests(digests.get(step, variables))
    return directory


def from_step(first: int, **fields: int) -> Callable[[LedgerRecord], LedgerRecord]:
    """Returns a change of the records from a step on."""
    return lambda record: record._replace(**fields) if record.step >= first else record
