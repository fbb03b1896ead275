"""Infeed of batches to a mesh; a thread reads and stacks them ahead while the devices work."""

from __future__ import annotations

import collections
import concurrent.futures
import operator
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data.batches import Batches
from mtfrun.data.errors import DataError
from mtfrun.data.features import (
    Padding,
    padding_of,
    shapes_of_rows,
    split_batch,
    validate_batch,
)
from mtfrun.data.order import ONLY_HOST, Host
from mtfrun.data.rows import Batch

STEPS = "steps"
# Bytes of batches that are read ahead, at least one batch, and their greatest number.
_BYTES_AHEAD, _MOST_AHEAD = 1 << 26, 256
# The next call's batches are stacked ahead up to this size, which the host's memory then holds once
# more.
_BYTES_STACKED_AHEAD = 1 << 28


def host_of(mesh: mtf.Mesh, shape: mtf.Shape, outer_batch: int = 1) -> Host:
    """Returns the rows of a batch that the devices of this process hold.

    Args:
      mesh: the mesh, over any number of processes.
      shape: of a feature, {batch, ...}.
      outer_batch: see `Infeed`.
    """
    rows = _split(mtf.Shape(shape.dims[:1]), outer_batch)
    numbers = np.arange(rows.size).reshape(rows.to_integer_list)
    local = np.unique(np.concatenate([numbers[part].ravel() for part in mesh.local_slices(rows)]))
    return ONLY_HOST if local.size == numbers.size else Host(local.tolist())


class _BatchAhead(NamedTuple):
    """A batch that was read ahead; the position of the data behind it, in examples; its padding."""

    batch: Batch
    position: int
    padding: Padding


class _Stacked(NamedTuple):
    """Batches, and their features {steps, ...} as arrays with their shapes."""

    batches: Sequence[_BatchAhead]
    features: Mapping[str, tuple[np.ndarray, mtf.Shape]]


class Infeed:
    """Puts the next batches on a mesh, the batches of several steps at a time.

    A thread reads the batches that follow and stacks the next call's, which is expected to be like
    the last one. The position is the one behind the batches that `next` has returned.

    Args:
      batches: dicts of integer arrays, int32 or uint8, whose first dimension is the batch, e.g.
        `data.train(batch, seed=0)`.
      mesh: where the batches go.
      shapes: the named shape of each feature, e.g. `data.shapes(batch)`.
      outer_batch: number of parts into which the batch is split; above 1 features are {outer_batch,
        batch, ...}, for layouts that split a batch over two mesh axes.
      with_shorter_rows: whether batches may have shorter rows than `shapes` say, and lack features,
        as those of an evaluation.
      host: the rows that `batches` have of every batch, see `host_of`; by default all.

    Attributes:
      wait_secs: time that calls of `next` have waited for the data.
      padding: of every batch that the last call of `next` has returned.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        mesh: mtf.Mesh,
        shapes: Mapping[str, mtf.Shape],
        outer_batch: int = 1,
        *,
        with_shorter_rows: bool = False,
        host: Host = ONLY_HOST,
    ):
        self.wait_secs = 0.0
        self.padding: list[Padding] = []
        self._batches = batches
        self._mesh = mesh
        self._shapes = dict(shapes)
        self._outer_batch = outer_batch
        for shape in shapes.values():
            _split(shape, outer_batch)  # raises before anything is read
        self._with_shorter_rows = with_shorter_rows
        self._host = host
        self._position = 0
        self._started: _Producer | None = None

    @property
    def position(self) -> int:
        """Number of examples consumed by `next`; may be set for endless batches."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        if not isinstance(self._batches, Batches):
            raise TypeError("only data.Batches have a position")
        self.close()
        self._batches.position = self._position = position

    @property
    def batches_left(self) -> int | None:
        """How many batches have not been read, of data that end; None if that is not known."""
        return operator.length_hint(self._batches) or None

    def next(self, steps: int, capacity: int | None = None) -> dict[str, mtf.Tensor] | None:
        """Returns the next batches' features {steps, [outer_batch,] batch, ...}; None at the end.

        If fewer than `steps` are left, or `capacity` is larger than `steps`, batches of zeros
        (padding, loss weight 0) fill up the `capacity` steps, so that the shape, and with it the
        compiled step, is always the same.
        """
        capacity = steps if capacity is None else capacity
        if steps < 1:
            raise DataError(f"Infeed: steps must be at least 1, not {steps}")
        if capacity < steps:
            raise DataError(f"Infeed: capacity {capacity} is too small for {steps} steps")
        start = time.monotonic()
        stacked = self._producer.next(steps, capacity)
        self.wait_secs += time.monotonic() - start
        self.padding = [ahead.padding for ahead in stacked.batches]
        if not stacked.batches:
            return None
        self._position = stacked.batches[-1].position
        if sum(array.nbytes for array, _ in stacked.features.values()) <= _BYTES_STACKED_AHEAD:
            self._producer.begin(steps, capacity)
        return {
            name: mtf.import_tf_tensor(self._mesh, array, shape)
            for name, (array, shape) in stacked.features.items()
        }

    def check(self, steps: int, capacity: int) -> None:
        """Waits until the batches of the next call of `next` are read; raises what it would."""
        self._producer.peek(steps, capacity)

    def examples_seen(self, steps_ago: int = 0) -> Mapping[str, float]:
        """Returns the examples of every task before the position, `steps_ago` batches earlier.

        By the name of the task, "" if there is only one. Nothing for batches that end.
        """
        if not isinstance(self._batches, Batches):
            return {}
        return self._batches.examples_before(self._position - steps_ago * self._batches.batch)

    def close(self) -> None:
        """Ends the thread, after the batch that it reads; the next call of `next` starts one."""
        if self._started is not None:
            self._started.stop()
            self._started = None

    @property
    def _producer(self) -> _Producer:
        if self._started is None:
            self._started = _Producer(self._batches, self._stack)
        return self._started

    def _stack(self, batches: Sequence[_BatchAhead], capacity: int) -> _Stacked:
        """Stacks batches, after checking them; runs in the thread."""
        if not batches:
            return _Stacked(batches, {})
        first = batches[0].batch
        local_shapes = {name: self._local_rows(shape) for name, shape in self._shapes.items()}
        if self._with_shorter_rows:
            local_shapes = shapes_of_rows(first, local_shapes)
        for ahead in batches:
            validate_batch(ahead.batch, local_shapes)
        features = {}
        for name, local_shape in local_shapes.items():
            shape = mtf.Shape([self._shapes[name][0], *local_shape.dims[1:]])
            rows = self._host.rows_of(shape[0].size)
            # Memory that is never written, for rows of other hosts, is not used either.
            stacked = np.zeros([capacity, *shape.to_integer_list], first[name].dtype)
            for step, ahead in enumerate(batches):
                stacked[step, rows] = ahead.batch[name]
            steps = mtf.Shape([mtf.Dimension(STEPS, capacity)])
            whole_shape = steps + _split(shape, self._outer_batch)
            features[name] = stacked.reshape(whole_shape.to_integer_list), whole_shape
        return _Stacked(batches, features)

    def _local_rows(self, shape: mtf.Shape) -> mtf.Shape:
        batch, *row_dims = shape
        local = mtf.Dimension(batch.name, len(self._host.rows_of(batch.size)))
        return mtf.Shape([local, *row_dims])


class _Producer:
    """Reads batches ahead in a thread, and stacks the next call's.

    Only the thread uses the deque, so that there are no locks. The executor ends its thread before
    Python does: a thread that still runs native code then would abort the process.
    """

    def __init__(
        self, batches: Iterator[Batch], stack: Callable[[Sequence[_BatchAhead], int], _Stacked]
    ):
        self._batches = batches
        self._stack = stack
        self._is_stopped = False
        self._begun: tuple[int, int, concurrent.futures.Future[_Stacked]] | None = None
        self._ahead: collections.deque[_BatchAhead] = collections.deque()
        self._num_stacked = 0  # of those ahead
        self._has_ended = False
        self._error: BaseException | None = None
        self._reads_ahead = False
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="infeed")

    def begin(self, steps: int, capacity: int) -> None:
        future = self._executor.submit(self._stack_first, steps, capacity)
        self._begun = steps, capacity, future

    def peek(self, steps: int, capacity: int) -> _Stacked:
        """Waits for the batches of the next call; raises the error of reading them."""
        if self._begun is None or self._begun[:2] != (steps, capacity):
            self.begin(steps, capacity)
        assert self._begun is not None
        return self._begun[2].result()

    def next(self, steps: int, capacity: int) -> _Stacked:
        stacked = self.peek(steps, capacity)
        self._begun = None
        self._executor.submit(self._drop, len(stacked.batches))
        return stacked

    def stop(self) -> None:
        self._is_stopped = True
        self._executor.shutdown(cancel_futures=True)

    def _stack_first(self, steps: int, capacity: int) -> _Stacked:
        while len(self._ahead) < steps and not (self._has_ended or self._is_stopped):
            self._read()
        if len(self._ahead) < steps and self._error is not None:
            raise self._error
        self._num_stacked = min(steps, len(self._ahead))
        self._begin_reading_ahead()
        return self._stack([self._ahead[i] for i in range(self._num_stacked)], capacity)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._ahead.popleft()
        self._num_stacked = 0
        self._begin_reading_ahead()

    def _begin_reading_ahead(self) -> None:
        if not self._reads_ahead:
            self._reads_ahead = True
            self._executor.submit(self._read_ahead)

    def _read_ahead(self) -> None:
        """Reads one batch and queues itself, so that no call waits for more than one."""
        last = self._ahead[-1].batch if self._ahead else {}
        size = sum(values.nbytes for values in last.values())
        most = min(_MOST_AHEAD, max(1, _BYTES_AHEAD // max(size, 1)))
        is_enough = len(self._ahead) - self._num_stacked >= most
        self._reads_ahead = not (is_enough or self._has_ended or self._is_stopped)
        if self._reads_ahead:
            self._read()
            self._executor.submit(self._read_ahead)

    def _read(self) -> None:
        """Reads a batch; keeps an error until the batches before it are consumed."""
        try:
            batch = next(self._batches, None)
            if batch is None:
                self._has_ended = True
                return
            position = self._batches.position if isinstance(self._batches, Batches) else 0
            self._ahead.append(_BatchAhead(batch, position, padding_of(batch)))
        except BaseException as error:
            self._has_ended, self._error = True, error


def _split(shape: mtf.Shape, outer_batch: int) -> mtf.Shape:
    return shape if outer_batch == 1 else split_batch(shape, outer_batch)
