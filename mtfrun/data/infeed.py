"""Infeed of batches to a mesh; threads read and stack them ahead while the devices work."""

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
from mtfrun.data.features import shapes_of_rows, split_batch, validate_batch
from mtfrun.data.order import ONLY_HOST, Host
from mtfrun.data.padding import Padding, padding_of
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

    Raises:
      LayoutError: the mesh cannot split the batch.
    """
    rows = mtf.Shape(shape.dims[:1]) if outer_batch == 1 else split_batch(shape, outer_batch)
    rows = mtf.Shape(rows.dims[: 1 + (outer_batch > 1)])
    numbers = np.arange(rows.size).reshape(rows.to_integer_list)
    own = np.unique(np.concatenate([numbers[part].ravel() for part in mesh.local_slices(rows)]))
    return ONLY_HOST if own.size == numbers.size else Host(own.tolist())


class Infeed:
    """Lays out the next batches on a mesh, those of several steps at a time.

    A thread reads the following batches, and another one stacks those of the next call, which is
    expected to be like the last one. They are no part of the position, which is that behind the
    batches returned by `next`.

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
        self._split(shapes)  # raises before anything is read
        self._with_shorter_rows = with_shorter_rows
        self._host = host
        self._position = 0
        self._stacker: _Stacker | None = None

    @property
    def position(self) -> int:
        """Number of examples consumed by `next`; setting it continues there, exactly.

        Only for endless batches, whose position can be set.
        """
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
        """Returns the features {steps, [outer_batch,] batch, ...} of the next batches.

        None at the end of the data.

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
        visit = self._ahead().next(steps, capacity)
        self.wait_secs += time.monotonic() - start
        self.padding = [ahead.padding for ahead in visit.batches]
        if not visit.batches:
            return None
        self._position = visit.batches[-1].position
        if sum(array.nbytes for array in visit.arrays.values()) <= _BYTES_STACKED_AHEAD:
            self._ahead().begin(steps, capacity)
        return {
            name: mtf.import_tf_tensor(self._mesh, array, visit.shapes[name])
            for name, array in visit.arrays.items()
        }

    def check(self, steps: int, capacity: int) -> None:
        """Waits until the batches of the next call of `next` are read; raises what it would."""
        self._ahead().check(steps, capacity)

    def examples_seen(self, steps_ago: int = 0) -> Mapping[str, float]:
        """Returns the examples of every task before the position, `steps_ago` batches earlier.

        By the name of the task, "" if there is only one. Nothing for batches that end.
        """
        if not isinstance(self._batches, Batches):
            return {}
        return self._batches.examples_before(self._position - steps_ago * self._batches.batch)

    def close(self) -> None:
        """Ends the threads; the next call of `next` starts others."""
        if self._stacker is not None:
            self._stacker.stop()
            self._stacker = None

    def _ahead(self) -> _Stacker:
        if self._stacker is None:
            self._stacker = _Stacker(_Reader(self._batches), self._stacked)
        return self._stacker

    def _stacked(self, batches: Sequence[_Ahead], steps: int) -> _Visit:
        """Returns the batches stacked to `steps`; uses nothing that `next` changes."""
        if not batches:
            return _Visit(steps, batches, {}, {})
        features = [ahead.batch for ahead in batches if ahead.batch is not None]
        arrays, shapes = {}, {}
        for name, shape in self._shapes_of(features).items():
            # Memory that is never written, for rows of other hosts, is not used either.
            stacked = np.zeros([steps, *shape.to_integer_list], features[0][name].dtype)
            own = self._host.rows_of(shape[0].size)
            for step, batch in enumerate(features):
                stacked[step, own] = batch[name]
            shapes[name] = mtf.Shape([mtf.Dimension(STEPS, steps)])
            shapes[name] += self._split({name: shape})[name]
            arrays[name] = stacked.reshape(shapes[name].to_integer_list)
        return _Visit(steps, batches, arrays, shapes)

    def _shapes_of(self, batches: list[Batch]) -> dict[str, mtf.Shape]:
        """Returns the shapes of the features of whole batches, after checking every batch."""
        own = {name: self._own_rows(shape) for name, shape in self._shapes.items()}
        if self._with_shorter_rows:
            own = shapes_of_rows(batches[0], own)
        for batch in batches:
            validate_batch(batch, own)
        return {
            name: mtf.Shape([self._shapes[name][0], *shape.dims[1:]]) for name, shape in own.items()
        }

    def _own_rows(self, shape: mtf.Shape) -> mtf.Shape:
        """Returns the shape of this host's rows of a feature."""
        batch, *row_dims = shape
        own = mtf.Dimension(batch.name, len(self._host.rows_of(batch.size)))
        return mtf.Shape([own, *row_dims])

    def _split(self, shapes: Mapping[str, mtf.Shape]) -> dict[str, mtf.Shape]:
        """Returns the shapes on the mesh, after checking the outer batch."""
        if self._outer_batch == 1:
            return dict(shapes)
        return {name: split_batch(shape, self._outer_batch) for name, shape in shapes.items()}


class _Ahead(NamedTuple):
    """A batch that was read ahead.

    Attributes:
      batch: its features; None at the end of the data.
      position: of the data behind it, in examples.
      padding: of the batch.
    """

    batch: Batch | None
    position: int
    padding: Padding


class _Visit(NamedTuple):
    """The batches of a call of `next`.

    Attributes:
      capacity: their number, with those of zeros.
      batches: those that were read.
      arrays, shapes: of the features, {steps, ...}; none without batches.
    """

    capacity: int
    batches: Sequence[_Ahead]
    arrays: Mapping[str, np.ndarray]
    shapes: Mapping[str, mtf.Shape]


class _Stacker:
    """Stacks the batches of the next call in a thread."""

    def __init__(self, reader: _Reader, stack: Callable[[Sequence[_Ahead], int], _Visit]):
        self._reader = reader
        self._stack = stack
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stacking")
        self._begun: concurrent.futures.Future[_Visit] | None = None
        self._unused: list[_Ahead] = []  # read, but by calls of other sizes
        self._is_stopped = False

    def next(self, steps: int, capacity: int) -> _Visit:
        """Returns the next batches, or raises what reading them has raised."""
        if self._begun is not None:
            begun, self._begun = self._begun, None
            visit = begun.result()
            if (len(visit.batches), visit.capacity) == (steps, capacity):
                return visit
            self._unused = [*visit.batches, *self._unused]
        return self._read(steps, capacity)

    def begin(self, steps: int, capacity: int) -> None:
        """Begins to stack the batches of another call of these sizes."""
        self._begun = self._executor.submit(self._read, steps, capacity)

    def check(self, steps: int, capacity: int) -> None:
        """Waits for the batches of the next call; raises what reading them has raised."""
        if self._begun is None:
            self.begin(steps, capacity)
        assert self._begun is not None
        self._begun.result()

    def stop(self) -> None:
        """Ends the threads, after the batch that is read."""
        self._is_stopped = True
        self._executor.shutdown(cancel_futures=True)
        self._reader.stop()

    def _read(self, steps: int, capacity: int) -> _Visit:
        while len(self._unused) < steps and not self._is_stopped:
            ahead = self._reader.next()
            if ahead.batch is None:
                break
            self._unused.append(ahead)
        batches, self._unused = self._unused[:steps], self._unused[steps:]
        return self._stack(batches, capacity)


class _Reader:
    """Reads batches in a thread, ahead of those that are asked for.

    The executor ends its thread before Python does: a thread that still runs native code then would
    abort the process.
    """

    def __init__(self, batches: Iterator[Batch]):
        self._batches = batches
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="infeed")
        self._ahead: collections.deque[concurrent.futures.Future[_Ahead]] = collections.deque()
        self._read_ahead(1)

    def next(self) -> _Ahead:
        """Returns the next batch, or raises what reading it has raised."""
        ahead = self._ahead[0].result()
        if ahead.batch is not None:  # the end stays
            self._ahead.popleft()
            size = sum(values.nbytes for values in ahead.batch.values())
            self._read_ahead(min(_MOST_AHEAD, max(1, _BYTES_AHEAD // max(size, 1))))
        return ahead

    def stop(self) -> None:
        """Ends the thread, after the batch that it reads."""
        self._executor.shutdown(cancel_futures=True)

    def _read_ahead(self, count: int) -> None:
        while len(self._ahead) < count:
            self._ahead.append(self._executor.submit(self._read))

    def _read(self) -> _Ahead:
        batch = next(self._batches, None)
        position = self._batches.position if isinstance(self._batches, Batches) else 0
        return _Ahead(batch, position, padding_of(batch or {}))
