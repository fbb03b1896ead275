from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtfrun.cli.command import Command
from mtfrun.cli.commands.checkpoints.flags import check_run
from mtfrun.display.formats import bytes_text, json_time, number_text, time_text
from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory, StoredCheckpoint

_DESCRIPTION = """\
Lists the checkpoints of a run: step, date, size, mesh, metric, state.

  mtfrun checkpoints list --model_dir=/tmp/run
  mtfrun checkpoints list --model_dir=/tmp/run --metric=bits_per_byte
  mtfrun checkpoints list --model_dir=/tmp/run --json

The metric is from the evaluation at the step of the checkpoint during training; * marks the best
one. A checkpoint is "good" if its files have the sizes that were saved; `checkpoints verify`
compares their contents too."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", help="of the evaluations; loss by default", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON array")


_LOSS = "loss"


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    from mtfrun.rundir import RunRecord
    from mtfrun.rundir.checkpoints.stored_checkpoints import CheckpointDirectory
    from mtfrun.rundir.tensorboard.metric_catalogue import is_lower_better

    directory = CheckpointDirectory.of(flags.model_dir)
    evaluations = {e.step: e.metrics for e in RunRecord(directory.run).evaluations()}
    metric = _metric(flags.metric, evaluations)
    values = {
        step: metrics[metric]
        for step, metrics in evaluations.items()
        if metric in metrics and math.isfinite(metrics[metric])
    }
    checkpoints = list(directory.read_all())
    if flags.json:
        print(json.dumps([_as_json(checkpoint, evaluations) for checkpoint in checkpoints]))
        return 0
    shown = {c.step: values[c.step] for c in checkpoints if c.step in values}
    choose = min if is_lower_better(metric) else max
    best = choose(shown, key=lambda step: shown[step], default=None)
    rows = []
    for checkpoint in checkpoints:
        step = checkpoint.step
        value = number_text(shown[step]) if step in shown else "-"
        metadata = checkpoint.manifest.metadata if checkpoint.manifest else {}
        rows.append(
            [
                str(step),
                time_text(checkpoint.time),
                bytes_text(checkpoint.bytes) if checkpoint.manifest else "-",
                value + ("*" if step == best else " " * bool(shown)),
                "damaged" if checkpoint.damages else "good",
                metadata.get("mesh", "-"),
            ]
        )
    headings = ("step", "saved", "size", metric, "state", "mesh")
    print_lines(*table_lines(headings, rows, terminal_columns()))
    print_lines(*_notes(directory, checkpoints))
    return 0


def _metric(name: str | None, evaluations: Mapping[int, Mapping[str, float]]) -> str:
    names = dict.fromkeys(name for metrics in evaluations.values() for name in metrics)
    if name is not None and name not in names:
        hint = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none'}"
        raise InputError(f"--metric={name}: no evaluation of this run has it{hint}")
    return name or (_LOSS if _LOSS in names or not names else next(iter(names)))


def _notes(directory: CheckpointDirectory, checkpoints: Sequence[StoredCheckpoint]) -> list[str]:
    notes = [f"step {c.step}: {damage}" for c in checkpoints for damage in c.damages]
    notes += [
        f"step {step}: {prefix}.* are complete, but ckpt-{step}.json is missing: put it back from "
        "a copy"
        for prefix, step in directory.lost_manifests().items()
    ]
    return notes


def _as_json(
    checkpoint: StoredCheckpoint, evaluations: Mapping[int, Mapping[str, float]]
) -> dict[str, object]:
    metadata = checkpoint.manifest.metadata if checkpoint.manifest else {}
    metrics = evaluations.get(checkpoint.step, {})
    return {
        "step": checkpoint.step,
        "saved": json_time(checkpoint.time),
        "bytes": checkpoint.bytes,
        "mesh": metadata.get("mesh"),
        "layout": metadata.get("layout"),
        "state": "damaged" if checkpoint.damages else "good",
        "damages": list(checkpoint.damages),
        "metrics": {name: x if math.isfinite(x) else None for name, x in metrics.items()},
    }


CHECKPOINTS_LIST = Command(
    "checkpoints list",
    _DESCRIPTION,
    _add_flags,
    check_run,
    run,
    imports_tensorflow=False,
    is_configured=False,
)
