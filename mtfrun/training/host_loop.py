"""The host loop: the number of its steps, their batches, the steps on the devices, their record."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import shlex
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from mtfrun import mtf, processes
from mtfrun.data import Infeed, Padding
from mtfrun.display.progress import note, print_line, waiting
from mtfrun.errors import InputError, install_command
from mtfrun.files.digests import MODULUS
from mtfrun.models.model import Features
from mtfrun.training import clock
from mtfrun.training.curves import LEARNING_RATE, OBJECTIVE, PADDING, HostMetric
from mtfrun.training.hooks.hook import HostRecord, StepRecord
from mtfrun.training.norms import GRADIENT, Norms
from mtfrun.training.options import TrainOptions
from mtfrun.training.state import TrainState
from mtfrun.training.step import train_steps_function

# The first loop compiles, the second one measures a step.
_PROFILED_LOOP = 2


@dataclasses.dataclass
class HostLoop:
    """Runs steps on the devices, from one return to the host to the next.

    `products` counts the products of a forward pass over a batch, in the first loop.
    """

    state: TrainState
    infeed: Infeed
    options: TrainOptions
    directory: str
    products: mtf.FlopCount

    def __post_init__(self) -> None:
        state, options = self.state, self.options
        self.loops = 0
        self.features: Features = {}
        self._first_step = 0
        self._secs_per_step: float | None = None
        self._batch_at = mtf.function(
            lambda features, i: {n: mtf.gather(x, i, x.shape[0]) for n, x in features.items()}
        )
        self._norms = Norms(state.trainable, options.log_every_steps, options.train_steps)
        self._train_steps = train_steps_function(
            state, options, norms=self._norms, products=self.products
        )

    def next_steps(self, step: int, stops: Iterable[int | None]) -> int:
        """Returns the number of steps of the next loop, which ends at the first stop or before.

        The first two have one step, to compile it and to measure it. A signal waits for the end of
        a loop, hence `TrainOptions.secs_per_loop`.
        """
        if self._secs_per_step is None:
            return 1
        options, iterations = self.options, self.options.iterations_per_loop
        # At the multiples, so that host loops end where windows of the curves do.
        ends = [options.train_steps, (step // iterations + 1) * iterations, *stops]
        most = min(end for end in ends if end is not None) - step
        return max(1, min(most, int(options.secs_per_loop / self._secs_per_step)))

    def run(self, step: int, count: int) -> HostRecord:
        start, waited = clock.seconds(), self.infeed.wait_secs
        with self._profiling():
            record = self._run_steps(step, count)
        secs, waited = clock.seconds() - start, self.infeed.wait_secs - waited
        if self.loops > 1:  # the first one compiles
            self._secs_per_step = max(secs, 1e-9) / count
        return dataclasses.replace(record, secs=secs, wait_secs=waited)

    def _run_steps(self, step: int, count: int) -> HostRecord:
        self.features = {}  # frees their memory before the next ones are made
        features = self.infeed.next(count, capacity=self.options.iterations_per_loop)
        if features is None:
            raise InputError("the training data has come to an end: Data.train must be endless")
        self.features, self._first_step = features, step
        num_steps = mtf.constant(self.state.mesh, count, dtype=tf.int32)
        compiling = waiting("compiling the training step", "compiled the training step")
        with compiling if self.loops == 0 else contextlib.nullcontext():
            start = clock.seconds()
            with mtf.collect_reports() as reports:
                record: StepRecord = mtf.to_numpy(self._train_steps(features, num_steps))
            device_secs = clock.seconds() - start
        self.loops += 1
        capacity = next(iter(features.values())).shape[0].size
        mtf.print_reports(reports, capacity, lambda i: f"step {step + i + 1}: ", note)
        padding, digests = self._gather_batches()
        metrics = {**record.metrics, OBJECTIVE: record.objective}
        empty, positions = np.array(padding, np.float64).reshape(-1, 2).T
        if positions.any():  # not of images
            metrics[PADDING] = HostMetric(empty, positions)
        for name, (total, number) in mtf.curves_of(reports, capacity).items():
            metrics[f"summary/{name}" if name in metrics else name] = HostMetric(total, number)
        values = {
            LEARNING_RATE: record.learning_rate,
            GRADIENT: record.gradient_norm,
            **self._norms.by_tag(record.norm_squares[0]),
        }
        return HostRecord(step, count, record, metrics, values, device_secs, digests)

    def index(self, step: int) -> int:
        return step - self._first_step - 1

    def batch(self, step: int) -> Features:
        index = mtf.constant(self.state.mesh, self.index(step), dtype=tf.int32)
        batch: Features = self._batch_at(self.features, index)
        return batch

    def _gather_batches(self) -> tuple[list[Padding], list[int]]:
        infeed = self.infeed
        rows = infeed.host.rows
        batches = (
            "" if rows is None else str(rows[0]),
            infeed.digests,
            list(map(list, infeed.padding)),
        )
        gathered = processes.gather(batches, "batches")
        padding = [
            Padding(*map(sum, zip(*parts, strict=True)))
            for parts in zip(*(padding for _, _, padding in gathered), strict=True)
        ]
        # Processes with devices that hold the same part of the batch have read the same rows.
        by_row = {first_row: digests for first_row, digests, _ in gathered}
        digests = [sum(parts) % MODULUS for parts in zip(*by_row.values(), strict=True)]
        return padding, digests

    @contextlib.contextmanager
    def _profiling(self) -> Iterator[None]:
        """Records a trace of one loop for TensorBoard, if `TrainOptions.profile` is set."""
        if not self.options.profile or self.loops != _PROFILED_LOOP:
            yield
            return
        tf.profiler.experimental.start(f"{self.directory}/train")
        try:
            # The loop counts as one step of the profiler, `_r`: it is one program.
            with tf.profiler.experimental.Trace("host loop", step_num=self.loops, _r=1):
                yield
        finally:
            tf.profiler.experimental.stop()
        plugin = f"install its plugin first: {install_command('xprof')}"
        if importlib.util.find_spec("xprof") is not None:
            plugin = "its plugin xprof is installed"
        command = f"tensorboard --logdir={shlex.quote(self.directory)}"
        print_line(f"profiled: look at it with {command}, page Profile; {plugin}")
