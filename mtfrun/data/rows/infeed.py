"""Infeed of batches to a mesh; a thread reads them ahead while the devices work."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import operator
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.rows.batches import Batch, Batches
from mtfrun.data.rows.order import ONLY_HOST, Host
from mtfrun.errors.checks import COUNT, Range, check_range
from mtfrun.files.digests import digest_of_rows

STEPS, OUTER_BATCH = "steps", "outer_batch"
# Bytes of batches that are read ahead, at least one batch, and their greatest number.
_BYTES_AHEAD, _MOST_AHEAD = 1 << 26, 256


def host_of(mesh: mtf.Mesh, shape: mtf.Shape, outer_batch: int = 1) -> Host:
    """Returns the rows of a batch {batch, ...} that the devices of this process hold."""
    rows = split_batch(mtf.Shape(shape.dims[:1]), outer_batch)
    numbers = np.arange(rows.size).reshape(rows.to_integer_list)
    local = np.unique(np.concatenate([numbers[part].ravel() for part in mesh.local_slices(rows)]))
    return ONLY_HOST if local.size == numbers.size else Host(local.tolist())


class Padding(NamedTuple):
    """The number of empty positions in batches of texts, and of all positions."""

    empty: int
    positions: int


class _BatchAhead(NamedTuple):
    """A batch that was read ahead, with the position of the data after it, in examples."""

    batch: Batch
    position: int
    padding: Padding
    digest: int


class Infeed:
    """Puts the next batches on a mesh, the batches of several steps at a time.

    A thread reads the batches that follow.

    Args:
      batches: dicts of arrays, int32 or uint8, with the batch as first dimension, e.g.
        `data.train(batch, seed=0)`.
      shapes: e.g. `data.shapes(batch)`.
      outer_batch: parts into which the batch is split; above 1 features are {outer_batch, batch,
        ...}, for layouts that split a batch over two mesh axes.
      with_shorter_rows: whether batches may have shorter rows and lack features.
      host: the rows that `batches` have of every batch, see `host_of`; by default all.

    Attributes:
      with_digests: whether digests of the batches are computed; set before they are read.
      wait_secs: time that calls of `next` have waited for the data.
      padding: the padding of each batch that the last `next` returned.
      digests: the digest of the rows of `host` in each of these, see `mtfrun.files.digests`.
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
        self.with_digests = False
        self.wait_secs = 0.0
        self.padding: list[Padding] = []
        self.digests: list[int] = []
        self.host = host
        self._batches = batches
        self._mesh = mesh
        self._shapes = dict(shapes)
        self._outer_batch = outer_batch
        for shape in shapes.values():
            split_batch(shape, outer_batch)  # raises before anything is read
        self._with_shorter_rows = with_shorter_rows
        self._position = 0
        self._started: _Reader | None = None

    @property
    def position(self) -> int:
        """Number of examples that `next` has returned; may be set for endless batches."""
        return self._position

    @position.setter
    def position(self, position: int) -> None:
        if not isinstance(self._batches, Batches):
            raise TypeError("only data.Batches have a position")
        self.close()
        self._batches.position = self._position = position

    @property
    def batches_left(self) -> int | None:
        """Number of batches not yet read, of data that end; None if unknown."""
        return operator.length_hint(self._batches) or None

    def next(self, steps: int, capacity: int | None = None) -> dict[str, mtf.Tensor] | None:
        """Returns the next batches' features {steps, [outer_batch,] batch, ...}; None at the end.

        If fewer than `steps` are left, or `capacity` is larger, batches of zeros (padding, loss
        weight 0) fill up the `capacity` steps: the shape, so the compiled step, stays the same.
        """
        capacity = steps if capacity is None else capacity
        check_range("steps", steps, COUNT)
        check_range("capacity", capacity, Range(steps, whole=True))
        start = time.monotonic()
        batches = self._reader.first(steps)
        self.wait_secs += time.monotonic() - start
        self.padding = [ahead.padding for ahead in batches]
        self.digests = [ahead.digest for ahead in batches] if self.with_digests else []
        if not batches:
            return None
        features = {
            name: mtf.import_tf_tensor(self._mesh, *self._stack(name, shape, batches, capacity))
            for name, shape in self._shapes_of(batches).items()
        }
        self._reader.drop(len(batches))
        self._position = batches[-1].position
        return features

    def check(self, steps: int) -> None:
        """Waits until the batches of the next call of `next` are read; raises its error."""
        self._shapes_of(self._reader.first(steps))

    def examples_seen(self, steps_ago: int = 0) -> Mapping[str, float]:
        """Returns the examples of every task before the position, `steps_ago` batches earlier.

        By task name, "" if there is only one; empty for batches that end.
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
    def _reader(self) -> _Reader:
        if self._started is None:
            self._started = _Reader(self._read)
        return self._started

    def _read(self) -> _BatchAhead:
        batch = next(self._batches)
        position = self._batches.position if isinstance(self._batches, Batches) else 0
        digest = 0
        if self.with_digests and batch:
            rows = self.host.rows_of(next(iter(self._shapes.values()))[0].size)
            digest = digest_of_rows(batch, rows.tolist())
        return _BatchAhead(batch, position, padding_of(batch), digest)

    def _shapes_of(self, batches: Sequence[_BatchAhead]) -> Mapping[str, mtf.Shape]:
        """Returns the shapes of the features of whole batches, after checking the batches."""
        shapes: Mapping[str, mtf.Shape] = self._shapes
        if self._with_shorter_rows and batches:
            shapes = _shapes_of_rows(batches[0].batch, shapes)
        local_shapes = {}
        for name, (batch, *row_dims) in shapes.items():
            local = mtf.Dimension(batch.name, len(self.host.rows_of(batch.size)))
            local_shapes[name] = mtf.Shape([local, *row_dims])
        for ahead in batches:
            validate_batch(ahead.batch, local_shapes)
        return shapes

    def _stack(
        self, name: str, shape: mtf.Shape, batches: Sequence[_BatchAhead], capacity: int
    ) -> tuple[np.ndarray, mtf.Shape]:
        """Returns a feature of whole batches {steps, ...}, and its shape."""
        rows = self.host.rows_of(shape[0].size)
        # Memory that is never written, for rows of other hosts, is not used either.
        stacked = np.zeros([capacity, *shape.to_integer_list], batches[0].batch[name].dtype)
        for step, ahead in enumerate(batches):
            stacked[step, rows] = ahead.batch[name]
        steps = mtf.Shape([mtf.Dimension(STEPS, capacity)])
        whole_shape = steps + split_batch(shape, self._outer_batch)
        return stacked.reshape(whole_shape.to_integer_list), whole_shape


class _Reader:
    """Reads batches ahead in a thread.

    The executor ends its thread before Python does: a thread that still runs native code then would
    abort the process.
    """

    def __init__(self, read: Callable[[], _BatchAhead]):
        self._read = read
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="infeed")
        self._changed = threading.Condition()  # held for all but reading
        self._ahead: collections.deque[_BatchAhead] = collections.deque()
        self._end: BaseException | None = None  # StopIteration, or an error of the data
        self._steps = 1  # of the last call, which the next one is expected to be like
        self._is_running = False

    def first(self, steps: int) -> list[_BatchAhead]:
        """Waits for so many batches, or the end of the data; raises an error of the data."""
        with self._changed:
            self._steps = steps
            self._run()
            self._changed.wait_for(lambda: len(self._ahead) >= steps or self._end is not None)
            if len(self._ahead) < steps and not isinstance(self._end, StopIteration | None):
                raise self._end
            return list(itertools.islice(self._ahead, steps))

    def drop(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._ahead.popleft()
            self._run()

    def stop(self) -> None:
        self._executor.shutdown(cancel_futures=True)

    def _run(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._executor.submit(self._work)

    def _work(self) -> None:
        with self._changed:
            self._is_running = self._end is None and len(self._ahead) < self._most_ahead()
            if not self._is_running:
                return
        try:
            ahead = [self._read()]
        except BaseException as error:
            ahead, self._end = [], error
        with self._changed:
            self._ahead += ahead
            self._changed.notify_all()
        self._executor.submit(self._work)  # an error after `stop`

    def _most_ahead(self) -> int:
        last = self._ahead[-1].batch if self._ahead else {}
        nbytes = sum(values.nbytes for values in last.values()) or _BYTES_AHEAD
        return max(self._steps, min(_MOST_AHEAD, _BYTES_AHEAD // nbytes))


def split_batch(shape: mtf.Shape, outer_batch: int) -> mtf.Shape:
    """Returns {outer_batch, batch, ...} for {batch, ...}; the same shape for 1."""
    if outer_batch == 1:
        return shape
    batch, *row_dims = shape
    if outer_batch < 1 or batch.size % outer_batch:
        sizes = f"{outer_batch} does not divide {batch.name}:{batch.size}"
        raise DataError(f"an outer batch of {sizes}: take a divisor of the batch size")
    inner = mtf.Dimension(batch.name, batch.size // outer_batch)
    return mtf.Shape([mtf.Dimension(OUTER_BATCH, outer_batch), inner, *row_dims])


def _shapes_of_rows(
    batch: Mapping[str, np.ndarray], shapes: Mapping[str, mtf.Shape]
) -> dict[str, mtf.Shape]:
    """Returns the shapes of a batch that may lack features of `shapes` and have shorter rows."""
    shorter = {}
    for name, values in batch.items():
        largest = tuple(shapes[name].to_integer_list) if name in shapes else ()
        if len(largest) != values.ndim or any(np.array(values.shape) > largest):
            declared = shapes[name].to_string if name in shapes else "none"
            rule = f"the shape of training's batches, which is the largest, is {declared}"
            sizes = list(values.shape)
            raise DataError(f'feature "{name}" of an evaluation has sizes {sizes}; {rule}')
        dims = zip(shapes[name], values.shape, strict=True)
        shorter[name] = mtf.Shape([mtf.Dimension(dim.name, size) for dim, size in dims])
    return shorter


def validate_batch(batch: Mapping[str, np.ndarray], shapes: Mapping[str, mtf.Shape]) -> None:
    """Raises DataError unless `batch` has exactly these features, integers of these shapes."""
    if set(batch) != set(shapes):
        missing = ", ".join(sorted(set(shapes) - set(batch))) or "none"
        surplus = ", ".join(sorted(set(batch) - set(shapes))) or "none"
        raise DataError(f"a batch has the wrong features; missing: {missing}; surplus: {surplus}")
    for name, shape in shapes.items():
        value = batch[name]
        if list(value.shape) != shape.to_integer_list:
            sizes = list(value.shape)
            raise DataError(f'feature "{name}" has sizes {sizes}, not {shape.to_string}')
        if value.dtype not in (np.int32, np.uint8):
            raise DataError(f'feature "{name}" is {value.dtype} where int32 or uint8 is expected')


def padding_of(batch: Mapping[str, np.ndarray]) -> Padding:
    """Returns the positions of inputs and targets; no positions for batches without text."""
    texts = [name for name in (INPUTS, TARGETS) if name in batch and batch[name].ndim == 2]
    tokens = sum(int(np.count_nonzero(find_tokens(batch, name))) for name in texts)
    positions = sum(batch[name].size for name in texts)
    return Padding(positions - tokens, positions)


def find_tokens(features: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Returns whether a position of a feature of ids holds a token, bool of its shape.

    Segments say so if there are any. Else an id of 0 is padding, and -1 in rows that have it. A
    masked language model has a target for some inputs only: its inputs say where padding is.

    Examples:
      >>> batch = {"inputs": np.array([[5, 9, 1, 0]]), "targets": np.array([[0, 7, 0, 0]])}
      >>> find_tokens(batch, "targets").tolist()
      [[True, True, True, False]]
    """
    segmentation = features.get(f"{name}_segmentation")
    if segmentation is not None:
        return np.asarray(segmentation != 0)
    ids = features[name]
    is_id = np.asarray(ids != (-1 if (ids == -1).any() else 0))
    inputs = features.get(INPUTS)
    has_gaps = bool((~is_id[..., :-1] & is_id[..., 1:]).any())
    if name == TARGETS and has_gaps and inputs is not None and inputs.shape == ids.shape:
        return np.asarray(inputs != 0)
    return is_id
