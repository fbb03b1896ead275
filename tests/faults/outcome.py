"""What a finished run consists of, to the bit, to compare it with an undisturbed one."""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib

import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.manifest import tensor_key
from mtfrun.rundir import RunDirectory

# Curves that are measured in seconds, and so differ between any two runs.
_MEASURED = "perf/"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a run.

    Attributes:
      step: the step of its newest checkpoint.
      curves: all points of training and evaluation, (split/tag, step) to `float.hex`.
      variables: SHA-256 of the bytes of every variable of the newest checkpoint, by path.
      checkpoints: the names of all files beside it.
    """

    step: int
    curves: dict[tuple[str, int], str]
    variables: dict[str, str]
    checkpoints: tuple[str, ...]

    def differences(self, other: Outcome) -> list[str]:
        values, others = self._values(), other._values()
        return [
            f"{name}: {values.get(name)}, not {others.get(name)}"
            for name in sorted({*values, *others})
            if values.get(name) != others.get(name)
        ]

    def _values(self) -> dict[str, object]:
        curves = {f"{tag} of step {step}": value for (tag, step), value in self.curves.items()}
        files = dict.fromkeys(self.checkpoints, "there")
        return {"step": self.step, **curves, **self.variables, **files}


def outcome(model_dir: pathlib.Path, *, with_curves: bool = True) -> Outcome:
    """Returns the outcome of a run; its files are compared with their hashes."""
    checkpoints = RunDirectory(model_dir).checkpoints()
    step = checkpoints.latest()
    assert step is not None, f"{model_dir} has no checkpoint"
    curves = {}
    if with_curves:
        curves = {**_curves(model_dir, "train"), **_curves(model_dir, "eval")}
        assert ("train/loss", step) in curves
    directory = model_dir / "checkpoints"
    return Outcome(
        step,
        curves,
        checkpoints.read(step, lambda manifest: _hashes(directory, manifest)),
        tuple(sorted(path.name for path in directory.iterdir())),
    )


def _curves(model_dir: pathlib.Path, split: str) -> dict[tuple[str, int], str]:
    events = EventAccumulator(str(model_dir / split), size_guidance={"tensors": 0}).Reload()
    points = {}
    for tag in events.Tags()["tensors"]:
        if tag.startswith(_MEASURED) or events.SummaryMetadata(tag).plugin_data.plugin_name != (
            "scalars"
        ):
            continue
        for event in events.Tensors(tag):
            value = float(tensor_util.make_ndarray(event.tensor_proto))
            points[f"{split}/{tag}", event.step] = value.hex()
    return points


def _hashes(directory: pathlib.Path, manifest: Manifest) -> dict[str, str]:
    reader = tf.train.load_checkpoint(str(directory / manifest.prefix))
    hashes = {}
    for path in manifest.variables:
        value = reader.get_tensor(tensor_key(path))
        hashes[path] = hashlib.sha256(value.tobytes()).hexdigest()
    return hashes


def leftovers(model_dir: pathlib.Path) -> list[str]:
    """Returns the names of files below a run that are being written, or that no manifest names."""
    partial = model_dir.rglob("*.partial")
    temporary = model_dir.rglob("*_temp*")
    directory = model_dir / "checkpoints"
    checkpoints = RunDirectory(model_dir).checkpoints(max_to_keep=None)
    named = {f"ckpt-{step}.json" for step in checkpoints.steps()}
    for step in checkpoints.steps():
        named.update(checkpoints.verify(step).files)
    unnamed = [path for path in directory.iterdir() if path.name not in named]
    return sorted({str(path.relative_to(model_dir)) for path in [*partial, *temporary, *unnamed]})
