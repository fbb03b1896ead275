"""Lines that are printed before training and after it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence

from mtfrun import mtf
from mtfrun.checkpoints.mirror import registry
from mtfrun.data import Data
from mtfrun.display.formats import duration_text, short_number
from mtfrun.display.table import table_lines
from mtfrun.errors import list_some
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.saved_configuration import TrainingHyperparameters
from mtfrun.metrics.catalogue import best_of
from mtfrun.mtf.placement.devices import describe_hardware
from mtfrun.rundir import RunDirectory, StepMetrics
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.training import TrainOptions, TrainState

_MOST_METRICS = 4


@dataclasses.dataclass(frozen=True)
class PrintedSummary:
    """The lines, by their labels, that are printed about a training; see `Training`."""

    run: RunDirectory
    experiment: Experiment
    state: TrainState
    options: TrainOptions
    batch_size: int

    def before(self, hyperparameters: TrainingHyperparameters) -> dict[str, str]:
        """Returns the lines before the first step; `hyperparameters` may be empty."""
        notes = "\n".join(_too_few_steps(self.options, hyperparameters))
        mesh = self.experiment.mesh
        devices = [mesh.describe_devices(), describe_hardware(mesh.devices)]
        return {
            "run": registry.url_of(self.run.path),
            "devices": ", ".join(filter(None, devices)),
            "model": describe_model(self.state),
            "data": _data(self.experiment.data),
            **_vocabulary(self.experiment.data),
            "batch": describe_batch(self.experiment, self.state, self.options, self.batch_size),
            "curves": shlex.join(["tensorboard", "--logdir", self.run.path]),
            **({"note": notes} if notes else {}),
        }

    def after(self, secs: float) -> dict[str, str]:
        """Returns the lines after the last step; `secs` is the duration in this process."""
        step, options = self.state.finished_steps, self.options
        lines = {"finished": f"step {step:,} of {options.train_steps:,} in {duration_text(secs)}"}
        evaluations = self.run.record().evaluations()
        if evaluations:
            last = evaluations[-1]
            metric = (options.checkpoints.best_metric or "loss").removeprefix("eval/")
            best = best_of(evaluations, lambda e: e.value(metric), options.checkpoints.best_mode)
            lines["last"] = _evaluation(last, tuple(last.metrics)[:_MOST_METRICS])
            if best is not None:
                lines["best"] = _evaluation(best, [metric])
        url = registry.url_of(self.run.path)
        commands = filter(None, ["eval", self.experiment.inference.example, "runs --curves"])
        texts = [f"mtfrun {command} --model_dir={shlex.quote(url)}" for command in commands]
        return {**lines, "checkpoint": f"{url}/{CHECKPOINTS}/ckpt-{step}", "next": "\n".join(texts)}


def describe_batch(
    experiment: Experiment, state: TrainState, options: TrainOptions, batch_size: int
) -> str:
    """Returns "8 rows of 32: 256 tokens a step; 25.6 k tokens in all"."""
    unit, row = state.model.reporting.unit, experiment.data.tokens_per_row
    per_step, microbatches = batch_size * row, options.microbatches
    rows = f"{batch_size} rows of {row}: " if row > 1 else ""
    parts = f", in {microbatches} microbatches" if microbatches > 1 else ""
    total = short_number(options.train_steps * per_step)
    return f"{rows}{per_step:,} {unit} a step{parts}; {total} {unit} in all"


def variable_lines(mesh: mtf.Mesh, variables: Mapping[str, mtf.Variable]) -> list[str]:
    """The table has a variable's part and bytes on a device; storage is not needed."""
    rows = []
    for path, variable in variables.items():
        stored = variable.stored_shape
        sizes = mesh.local_sizes(stored)
        rows.append(
            [
                path,
                variable.shape.to_string or "scalar",
                ",".join(axis or "-" for axis in mesh.partition(stored)),
                "x".join(map(str, sizes)),
                f"{math.prod(sizes) * variable.dtype.size:,}",
            ]
        )
    headings = ["variable", "dimensions", "layout", "on each device", "bytes"]
    return table_lines(headings, rows, None)


def unused_rules(mesh: mtf.Mesh) -> list[tuple[str, str]]:
    """Returns labels and lines about layout rules without effect, once the model is built."""
    unused = mesh.unused_rules()
    if not unused:
        return []
    rules = ", ".join(f"{dimension}:{mesh.layout[dimension]}" for dimension in unused)
    return [
        ("rules unused", f"{rules}: no parameter and no batch has such a dimension"),
        *(("warning", text) for text in mesh.misspelt_rules()),
    ]


def _too_few_steps(
    options: TrainOptions, hyperparameters: TrainingHyperparameters
) -> Iterator[str]:
    steps, interval = options.train_steps, options.log_every_steps
    if interval > steps:
        yield (
            f"LOG_EVERY is {interval}: the training curves will have one point; "
            f"--gin.LOG_EVERY={max(1, steps // 10)} gives more"
        )
    for name, text in itertools.chain.from_iterable(x.items() for x in hyperparameters.values()):
        if name.endswith("LinearWarmup.warmup_steps") and float(text) > max(1, steps / 2):
            yield (
                f"WARMUP_STEPS is {text}: the learning rate rises in more than half of the "
                "training; --gin.WARMUP_STEPS=0.1 is a tenth"
            )


def _evaluation(evaluation: StepMetrics, names: Sequence[str]) -> str:
    values = "  ".join(f"{name} {evaluation.metrics[name]:.4f}" for name in names)
    return f"step {evaluation.step:,}: {values}"


def describe_model(state: TrainState) -> str:
    """Returns "DecoderOnly, 721,792 parameters; Adafactor"."""
    variables = [v for v in state.model.named_variables().values() if v.trainable]
    parameters, active = state.model.count_parameters()
    frozen = len(variables) - len(state.trainable)
    return (
        f"{type(state.model).__name__}, {parameters:,} parameters"
        + f", {active:,} active" * (active < parameters)
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
    files = list(dict.fromkeys(escape(path) for cached in caches for path in cached.files))
    places = f" of {len(files):,} files: {list_some(files)}" if len(files) > 1 else ""
    if len(files) == 1:
        places = f" of {files[0]}"
    return f"{type(data).__name__} of {list_some(data.cached_tasks)}: {', '.join(sizes)}{places}"


def _vocabulary(data: Data) -> dict[str, str]:
    ids = [f"{type(v).__name__}, {v.size:,} ids" for v in data.vocabularies.values()]
    classes = [f"{name}: {len(names):,}" for name, names in data.class_names.items()]
    lines = {"vocabulary": "; ".join(dict.fromkeys(ids)), "classes": "; ".join(classes)}
    return {label: line for label, line in lines.items() if line}
