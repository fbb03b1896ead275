"""Training of an experiment in a run directory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np
import tensorflow as tf

from mtfrun import mtf, optim, processes, training
from mtfrun.checkpoints import Manifest
from mtfrun.checkpoints.manifest import describe
from mtfrun.display import pictures, progress
from mtfrun.display.streams import Style
from mtfrun.display.table import fit_fields, label_lines
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.errors.untrusted import escape
from mtfrun.experiment.adapters import SavedAdapters, as_adapters, load_base, saved_adapters
from mtfrun.experiment.evaluation.evaluation import Evaluation
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.loss_terms import LossTerm
from mtfrun.experiment.printed_summary import PrintedSummary
from mtfrun.experiment.records import require
from mtfrun.experiment.saved_configuration import (
    SavedConfiguration,
    TrainingHyperparameters,
    check_same_training_data,
)
from mtfrun.layers import Adapter
from mtfrun.metrics.catalogue import best_mode, is_better
from mtfrun.metrics.event_files import Summaries
from mtfrun.models import NonFiniteError
from mtfrun.rundir import RunCost, RunDirectory, RunRecord, State, Status
from mtfrun.training.hooks.hook import listener

# An error is recorded as one line of at most so many characters.
_ERROR_CHARACTERS = 500


@dataclasses.dataclass(frozen=True)
class TrainChoices:
    """How to begin a training.

    Attributes:
      restart: begin at step 0; existing checkpoints are moved to checkpoints.1.
      accept_changes: resume although data, configuration or code have changed.
      profile: record a trace of some steps, in this process; of the first also by `TrainOptions`.
      max_hours: hours until training saves and ends; None for no limit.
    """

    restart: bool = False
    accept_changes: bool = False
    profile: bool = False
    max_hours: float | None = None


@dataclasses.dataclass(eq=False, kw_only=True)
class TrainedVariables:
    """Which variables a training changes, and which documents it reads.

    Attributes:
      frozen: regular expressions of variable paths that are not trained.
      adapters: adapters to train instead of the model's variables, such as `layers.LoRA`, or a
        list; the model begins with `Experiment.init_checkpoint`, which a checkpoint then names.
      average_decay: decay of moving averages of the weights; None for no averages.
      exclude_documents: hashes of documents that it leaves out, as `mtfrun audit rows` prints
        them; their places in the batches are padding.
    """

    frozen: Sequence[str] = ()
    adapters: Adapter | Sequence[Adapter] | None = None
    average_decay: float | None = None
    exclude_documents: Sequence[str] = ()


@dataclasses.dataclass(eq=False)
class Training(TrainedVariables):
    """Trains an experiment; until it runs, variables are specifications without values.

    Attributes:
      options: the loop's options: number of steps, checkpoints, microbatches, ...
      batch_size: rows of a step, over all devices and microbatches.
      evaluate_every_steps: steps between evaluations; None evaluates only at the end, and where
        `Evaluation.at_start` at the start.
      actions: further actions of the loop, after an evaluation that is due at the same step.
      loss_terms: terms of the loss besides the model's, such as `distillation.Teacher`;
        `prepared_terms` are built for this training.
    """

    experiment: Experiment
    evaluation: Evaluation
    optimizer: optim.Optimizer
    options: training.TrainOptions
    batch_size: int
    evaluate_every_steps: int | None = 1000
    actions: Sequence[training.Action] = ()
    loss_terms: Sequence[LossTerm] = ()

    def __post_init__(self) -> None:
        experiment, microbatches = self.experiment, self.options.microbatches
        experiment.check_batch(self.batch_size)
        check_range("evaluate_every_steps", self.evaluate_every_steps, COUNT, optional=True)
        for shape in experiment.feature_shapes(self.batch_size).values():
            batch = shape.get_dim_by_name("batch")
            if microbatches > 1:  # else the check of the layout has more to say
                training.check_microbatches(batch, microbatches, experiment.mesh)
        training.check_actions(self.actions)
        experiment.model.add_adapters(as_adapters(self.adapters, "Training.adapters"))
        # Behind the adapters, which freeze the variables before them.
        remedy = "give a list of terms, such as [@distillation.Teacher()]"
        self.prepared_terms = [
            require(term, LossTerm, "Training.loss_terms", remedy).prepare(experiment)
            for term in self.loss_terms
        ]
        self.state = training.TrainState(
            experiment.model,
            self.optimizer,
            experiment.mesh,
            seed=experiment.seed,
            frozen=self.frozen,
            average_decay=self.average_decay,
        )
        if self.exclude_documents:
            experiment.data = experiment.data.remove(self.exclude_documents)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of a batch, padding included."""
        return self.batch_size * self.experiment.data.tokens_per_row

    def compile_step(self) -> None:
        """Initialises the variables and compiles a training step without applying one."""
        state, options = self.state, self.options
        state.initialize()
        train_steps = training.train_steps_function(state, options)
        steps = mtf.Shape([mtf.Dimension("steps", 1)])
        shapes = self.experiment.feature_shapes(self.batch_size)
        features = {
            name: mtf.import_tf_tensor(
                state.mesh, np.zeros([1, *shape.to_integer_list], np.int32), steps + shape
            )
            for name, shape in shapes.items()
        }
        train_steps(features, mtf.constant(state.mesh, 0, dtype=tf.int32))

    def run(
        self,
        run: RunDirectory,
        choices: TrainChoices = TrainChoices(),
        *,
        texts: Mapping[str, str] | None = None,
        hyperparameters: TrainingHyperparameters | None = None,
        recording: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> training.TrainResult:
        """Trains; the caller holds the run's lock, and has moved checkpoints aside for a restart.

        `texts` and `recording`: see `training.Description`. The checkpoint's
        hyperparameters are compared with these, unless None.
        """
        experiment, options = self.experiment, self.options
        is_profiled = choices.profile or (options.profile and processes.is_first())
        check_same_training_data(experiment.data)
        summary = PrintedSummary(run, experiment, self.state, options, self.batch_size)
        saved = SavedConfiguration(experiment.data, hyperparameters, options.train_steps)
        described = self._describe(summary, saved, choices)
        status = _Recording(run.record(), options.train_steps, self._size)
        limits = [] if choices.max_hours is None else [training.MaxHours(choices.max_hours)]
        drawing = [_DrawMesh(experiment.mesh)] if experiment.mesh.size > 1 else []
        newest, hooks = run.checkpoints().latest(), options.make_hooks()
        with contextlib.ExitStack() as stack:
            for hook in reversed(hooks):
                stack.callback(hook.end)
            listen = listener(hooks, run, newest or 0, "eval")
            summaries = stack.enter_context(
                run.summaries("eval", resumed_step=newest or 0, listener=listen)
            )
            every = self.evaluate_every_steps
            evaluate = _Evaluate(self.evaluation, self.state, run, summaries, every)
            stack.enter_context(status.record_errors(is_resumed=newest is not None))
            start = time.monotonic()
            result = training.train(
                self.state,
                experiment.train_infeed(self.batch_size),
                run,
                dataclasses.replace(options, profile=is_profiled),
                hooks=hooks,
                actions=[*drawing, evaluate, *self.actions, status, *limits],
                init_checkpoint=None if experiment.model.adapters else experiment.init_checkpoint,
                description=dataclasses.replace(described, texts=texts or {}, recording=recording),
                cost=status.process,
            )
            is_cut_off = any(limit.is_over for limit in limits)
            status.record_end(result, is_cut_off=is_cut_off)
        if result.values and result.signal is None and not is_cut_off:
            with run.log():
                progress.note(label_lines(summary.after(time.monotonic() - start)))
        return result

    def _describe(
        self, summary: PrintedSummary, saved: SavedConfiguration, choices: TrainChoices
    ) -> training.Description:
        """Also gives the model under adapters its values, which it describes."""
        lines, entries = load_base_of_adapters(self.experiment, summary.run)
        for term in self.prepared_terms:
            lines |= term.describe()
            entries |= term.metadata()
        return training.Description(
            summary={**summary.before(saved.hyperparameters or {}), **lines},
            metadata={**saved.metadata(), **entries},
            check=lambda x: self.check_manifest(x, saved, accept_changes=choices.accept_changes),
        )

    @property
    def _size(self) -> RunCost:
        total, active = self.state.model.count_parameters()
        tokens = self.tokens_per_step
        return RunCost(parameters=total, active_parameters=active, tokens_per_step=tokens)

    def check_manifest(
        self, manifest: Manifest, saved: SavedConfiguration, *, accept_changes: bool = False
    ) -> None:
        """Raises InputError if a checkpoint must not be restored; prints other changes."""
        for term in self.prepared_terms:
            term.check_unchanged(manifest, accept_changes=accept_changes)
        is_same = manifest.variables == describe(self.state.storage())
        for note in saved.check(
            manifest, has_same_variables=is_same, accept_changes=accept_changes
        ):
            progress.note(f"mtfrun: note: {escape(note)}")


def load_base_of_adapters(
    experiment: Experiment, run: RunDirectory
) -> tuple[dict[str, str], dict[str, object]]:
    """Gives the model under adapters its values; returns lines of the run summary, and entries."""
    model = experiment.model
    if not model.adapters:
        return {}, {}
    manifest = run.checkpoints().manifest(None)
    former = None if manifest is None else saved_adapters(manifest)
    former_base = None if former is None else former.base
    with progress.waiting("reading the model that the adapters are for"):
        base = load_base(model, experiment.init_checkpoint, experiment.seed, former_base)
    saved = SavedAdapters(model.adapters, base)
    return {"adapters": saved.describe(model)}, saved.metadata()


@dataclasses.dataclass
class _DrawMesh(training.Action):
    mesh: mtf.Mesh
    is_drawn: bool = False

    # After the first steps, because the first drawing of a process takes a second.
    every_secs = 1.0
    at_end = True

    def __call__(self, context: training.ActionContext) -> None:
        if self.is_drawn:
            return
        self.is_drawn = True
        axes = {axis.name: axis.size for axis in self.mesh.shape}
        layout, title = dict(self.mesh.layout), self.mesh.describe_devices()
        picture = pictures.mesh_devices(axes, layout, title=title)
        context.summaries.image("mesh", picture.pixels(), context.step)


@dataclasses.dataclass
class _Evaluate(training.Action):
    """Adds "eval/loss" and more, with the averages; a signal ends it."""

    evaluation: Evaluation
    state: training.TrainState
    run: RunDirectory
    summaries: Summaries
    every_steps: int | None
    best: dict[str, float] = dataclasses.field(default_factory=dict)

    at_end = True
    cause = "evaluation"

    def __post_init__(self) -> None:
        self.at_start = self.evaluation.at_start

    def is_missing(self, step: int) -> bool:
        steps = processes.by_first(lambda: [e.step for e in self.run.record().evaluations()])
        return not steps or steps[-1] < step

    def __call__(self, context: training.ActionContext) -> None:
        context.check_signals()
        step, is_first = context.step, context.step == 0
        evaluation = self.evaluation.before_first_step() if is_first else self.evaluation
        # Averages begin with the first step.
        is_averaged = evaluation.experiment.use_averages and not is_first
        with self.state.swap_averages() if is_averaged else contextlib.nullcontext():
            metrics = evaluation(
                step, self.summaries, context.check_signals, self.run, with_pictures=not is_first
            )
        # All metrics are in TensorBoard.
        brief = {name: value for name, value in metrics.items() if evaluation.is_brief(name)}
        fields: list[tuple[str, Style | None]] = [(f"eval step {step}", "bold")]
        for name, value in brief.items():
            fields.append((f"{name} {value:.4f}", "green" if self._is_best(name, value) else None))
        context.note(fit_fields(fields, indent=4))
        context.metrics.add(step, {f"eval/{name}": value for name, value in brief.items()})

    def _is_best(self, name: str, value: float) -> bool:
        best = self.best.get(name)
        if best is None or is_better(value, best, best_mode(name)):
            self.best[name] = value
        return best is not None and is_better(value, best, best_mode(name))


@dataclasses.dataclass
class _Recording(training.Action):
    """Records step, values, speed and cost every few seconds, and how the training has ended."""

    record: RunRecord
    train_steps: int
    size: RunCost
    process: training.ProcessCost = dataclasses.field(default_factory=training.ProcessCost)
    status: Status | None = None  # the newest of this process

    every_secs = 5.0
    at_end = True

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        former = self.record.status()
        self._former = RunCost() if former is None else former.cost

    def __call__(self, context: training.ActionContext) -> None:
        reporting = context.state.model.reporting
        speed, unit = context.values.get(reporting.rate), reporting.short_unit
        values = {name: value for name, value in context.values.items() if "/" not in name}
        self._write(Status("running", context.step, self.train_steps, values, speed, unit))

    @contextlib.contextmanager
    def record_errors(self, *, is_resumed: bool) -> Iterator[None]:
        """Records an error that is raised inside.

        Before the first step it does not replace a record, and adds none if the run `is_resumed`.
        """
        try:
            yield
        except Exception as error:
            former = self.status or self.record.status()
            is_input_error = isinstance(error, InputError)
            is_refused = is_input_error and not isinstance(error, NonFiniteError)
            is_new = former is None and not is_resumed
            if is_new or self.status is not None or not is_refused:
                text = str(error) if is_input_error else f"{type(error).__name__}: {error}"
                status = former or Status("failed", 0, self.train_steps)
                line = " ".join(text.split())[:_ERROR_CHARACTERS]
                self._write(dataclasses.replace(status, state="failed", error=line))
            raise

    def record_end(self, result: training.TrainResult, *, is_cut_off: bool = False) -> None:
        """Records the end, or a stop by a signal; `is_cut_off` if by a limit of time."""
        status = self.status or self.record.status()
        if status is None or status.step != result.step:
            status = Status("running", result.step, self.train_steps)
        is_stopped = result.signal is not None or is_cut_off
        state: State = "stopped" if is_stopped else "finished"
        self._write(
            dataclasses.replace(status, state=state, train_steps=self.train_steps, error=None)
        )

    def _write(self, status: Status) -> None:
        self.status = dataclasses.replace(status, time=time.time(), cost=self._cost())
        if processes.is_first():
            self.record.write_status(self.status)

    def _cost(self) -> RunCost:
        flops_per_token = self._former.flops_per_token
        if self.process.products.total:  # else no step has been compiled
            step = training.PASSES * self.process.products.total
            flops_per_token = step / (self.size.tokens_per_step or 1)
        seconds = (self._former.seconds or 0.0) + time.monotonic() - self._start
        by_cause = dict(self._former.seconds_by_cause)
        for cause, secs in self.process.seconds.items():
            by_cause[cause] = round(by_cause.get(cause, 0.0) + secs, 3)
        return dataclasses.replace(
            self.size,
            flops_per_token=flops_per_token,
            seconds=round(seconds, 3),
            seconds_by_cause=by_cause,
        )
