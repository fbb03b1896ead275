"""The lines printed about a training before its first step and after its last one."""

from __future__ import annotations

import itertools
import pathlib
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mtfrun import mtf
from mtfrun.data import Data
from mtfrun.display.formats import duration_text
from mtfrun.experiment.saved_configuration import NumbersOfTraining
from mtfrun.mtf.devices import describe_hardware
from mtfrun.rundir import LOWEST, RunDirectory, StepMetrics
from mtfrun.rundir.records.run_record import best_of
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.training import TrainOptions
from mtfrun.untrusted import escaped

if TYPE_CHECKING:
    from mtfrun.experiment.training import Training

_MOST_NAMES = 3
_MOST_METRICS = 4


def header_of(training: Training, run: RunDirectory, numbers: NumbersOfTraining) -> dict[str, str]:
    """Returns lines by their labels.

    Args:
      training: before its first step.
      run: its run directory.
      numbers: the parameters of the configuration that affect its results; may be empty.
    """
    experiment = training.experiment
    notes = "\n".join(_too_few_steps(training.options, numbers))
    return {
        "run": run.path,
        "devices": _devices(experiment.mesh),
        "model": _model(training),
        "data": _data(experiment.data),
        **_vocabulary(experiment.data),
        "batch": _batch(training),
        "curves": tensorboard_command(run.path),
        **({"note": notes} if notes else {}),
    }


def _too_few_steps(options: TrainOptions, numbers: NumbersOfTraining) -> Iterator[str]:
    """Yields notes about intervals that are too long for the number of steps."""
    steps, interval = options.train_steps, options.log_every_steps
    if interval > steps:
        yield (
            f"LOG_EVERY is {interval}: the training curves will have one point; "
            f"--gin.LOG_EVERY={max(1, steps // 10)} gives more"
        )
    for name, text in itertools.chain.from_iterable(x.items() for x in numbers.values()):
        if name.endswith("LinearWarmup.warmup_steps") and float(text) > max(1, steps / 2):
            yield (
                f"WARMUP_STEPS is {text}: the learning rate rises in more than half of the "
                f"training; --gin.WARMUP_STEPS={max(1, steps // 10)} is a tenth"
            )


def summary_of(training: Training, run: RunDirectory, secs: float) -> dict[str, str]:
    """Returns lines by their labels about a training that has reached its last step.

    Args:
      training: after its last step.
      run: its run directory.
      secs: the duration_text of the training in this process.
    """
    step = training.state.finished_steps
    lines = {
        "finished": f"step {step:,} of {training.options.train_steps:,} in {duration_text(secs)}"
    }
    evaluations = run.record().evaluations()
    if evaluations:
        last = evaluations[-1]
        metric = (training.options.checkpoints.best_metric or "loss").removeprefix("eval/")
        is_lower = training.options.checkpoints.best_mode == LOWEST
        best = best_of(evaluations, metric, is_lower_better=is_lower)
        lines["last"] = _evaluation(last, tuple(last.metrics)[:_MOST_METRICS])
        if best is not None:
            lines["best"] = _evaluation(best, [metric])
    model_dir = shlex.quote(run.path)
    example = training.experiment.inference.example
    commands = ["eval", *([f"decode {example}"] if example else []), "curves"]
    return {
        **lines,
        "checkpoint": f"{run.path}/{CHECKPOINTS}/ckpt-{step}",
        "next": "\n".join(f"mtfrun {command} --model_dir={model_dir}" for command in commands),
    }


def _evaluation(evaluation: StepMetrics, names: Sequence[str]) -> str:
    values = "  ".join(f"{name} {evaluation.metrics[name]:.4f}" for name in names)
    return f"step {evaluation.step:,}: {values}"


def tensorboard_command(directory: str) -> str:
    """Returns a command that can be pasted into any shell of this machine.

    The program of this Python's environment; by its name alone if that is found.
    """
    program = pathlib.Path(sys.executable).parent / "tensorboard"
    if shutil.which("tensorboard") == str(program):
        program = pathlib.Path("tensorboard")
    return shlex.join([str(program), "--logdir", directory])


def _devices(mesh: mtf.Mesh) -> str:
    hardware = describe_hardware(mesh.devices)
    return mesh.describe_devices() + f", {hardware}" * bool(hardware)


def _model(training: Training) -> str:
    state = training.state
    variables = [v for v in state.model.named_variables().values() if v.trainable]
    parameters = sum(variable.shape.size for variable in variables)
    frozen = len(variables) - len(state.trainable)
    return (
        f"{type(state.model).__name__}, {parameters:,} parameters"
        + f", {frozen} of {len(variables)} variables frozen" * bool(frozen)
        + f"; {type(state.optimizer).__name__}"
    )


def _data(data: Data) -> str:
    """Returns "LanguageModelData of TextFiles: 9 documents, 1,200 bytes, ... in /tmp/a.txt"."""
    if not data.cached_tasks:
        return type(data).__name__
    caches = list(data.caches("train"))
    counts: dict[str, int] = {}
    for cached in caches:
        counts |= {name: counts.get(name, 0) + number for name, number in cached.counts.items()}
    if data.has_text:
        counts = {"documents": counts.pop("examples"), **counts}
    sizes = [
        f"{number:,} {name.removesuffix('s') if number == 1 else name}"
        for name, number in counts.items()
    ]
    files = list(dict.fromkeys(escaped(path) for cached in caches for path in cached.files))
    of_files = f" of {len(files):,} files: {_first(files)}" if len(files) > 1 else ""
    if len(files) == 1:
        of_files = f" of {files[0]}"
    return f"{type(data).__name__} of {_first(data.cached_tasks)}: {', '.join(sizes)}{of_files}"


def _first(names: Sequence[str]) -> str:
    """Returns the first names, and how many more there are."""
    more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _vocabulary(data: Data) -> dict[str, str]:
    """Returns the vocabularies of ids, and the numbers of classes; nothing for other data."""
    lines = {}
    ids = {name: f"{type(v).__name__}, {v.size:,} ids" for name, v in data.vocabularies.items()}
    if ids:
        lines["vocabulary"] = _once(ids)
    if data.class_names:
        lines["classes"] = _once({name: f"{len(x):,}" for name, x in data.class_names.items()})
    return lines


def _once(texts: dict[str, str]) -> str:
    """Returns the text that all names have, or each after its name."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _batch(training: Training) -> str:
    data, options = training.experiment.data, training.options
    unit = training.state.model.reporting.unit
    row, per_step = data.tokens_per_row, training.tokens_per_step
    total = options.train_steps * per_step
    of_row = f"{training.batch_size} rows of {row}: " if row > 1 else ""
    parts = f", in {options.microbatches} microbatches" if options.microbatches > 1 else ""
    return f"{of_row}{per_step:,} {unit} a step{parts}; {_rounded(total)} {unit} in all"


def _rounded(count: int) -> str:
    """Returns "4.1 million" for 4,096,000."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            digits = 1 if count < 100 * size else 0
            return f"{count / size:.{digits}f} {word}"
    return f"{count:,}"
