"""The threads of requests: one decodes rows in a shared batch, one computes everything else."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import TARGETS, PromptRow
from mtfrun.decoding import Decoder, Guide, Search
from mtfrun.experiment.experiment import Inference
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.extras.serving.shared_batch import Decoded, SharedBatch
from mtfrun.files import Worker


@functools.singledispatch
def shared_batch_of(inference: Inference, places: Sequence[int]) -> SharedBatch | None:
    """Returns a batch for rows of `prompt_format`, each with its `Search`; None for other models.

    All rows must be at one position in encoder-decoders, prefix language models, models with
    learned prompts, and in layers that read positions one after the other. `places`: see
    `SharedBatch`; on several devices only the last number counts.
    """
    del inference, places
    return None


@shared_batch_of.register
def _(decoding: Decoding, places: Sequence[int]) -> SharedBatch | None:
    experiment, model = decoding.experiment, decoding.model
    if not model.shares_beginnings:
        return None
    size = decoding.prompt_format.max_lengths[TARGETS]
    length = mtf.Dimension("length", size)

    def decoder_for(batch: mtf.Dimension) -> Decoder:
        targets = mtf.zeros(experiment.mesh, [batch, length], tf.int32)
        in_blocks = model.decoder({TARGETS: targets}).in_blocks
        assert in_blocks is not None
        return in_blocks()

    rows = [experiment.rows_for(n) for n in places]
    return SharedBatch(
        decoder_for,
        model.vocab,
        model.named_variables(),
        length=size,
        places=rows[-1:] if experiment.mesh.is_distributed else rows,
        first_position=int(not model.predicts_first_id),
        end_id=decoding.search.controls.ends(decoding.data.vocabulary.end_id)[0],
    )


class StreamEvent(NamedTuple):
    """Newly decoded ids of a row of a request, or the error that ended it."""

    row: int
    decoded: Decoded | Exception


@dataclasses.dataclass(eq=False)
class Request:
    """A row to decode, which waits for a place or has one.

    Attributes:
      number: the row's number among those that share `events`.
      line: selects its draws, see `decoding.Sample`.
      events: a queue in the event loop.
    """

    number: int
    row: PromptRow
    search: Search
    line: int
    events: asyncio.Queue[StreamEvent]
    guide: Guide | None = None
    loop: asyncio.AbstractEventLoop = dataclasses.field(default_factory=asyncio.get_running_loop)
    is_cancelled: bool = False

    def send(self, decoded: Decoded | Exception) -> None:
        # The loop is closed if the server has been stopped.
        with contextlib.suppress(RuntimeError):
            event = StreamEvent(self.number, decoded)
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)


class Engine:
    """Rows of all requests in one batch, first come, first served.

    Args:
      device: held while a program runs.

    Attributes:
      thread: it ends after the present steps when it is stopped.
    """

    def __init__(self, batch: SharedBatch, device: contextlib.AbstractContextManager[object]):
        self._batch, self._device = batch, device
        self._by_place: dict[int, Request] = {}
        self.thread: Worker[Request] = Worker(self._run, "decoding")

    @property
    def waiting(self) -> int:
        return len(self.thread.waiting)

    @property
    def active(self) -> int:
        return len(self._by_place)

    def cancel(self, request: Request) -> None:
        """Frees the row's place before the next steps; nothing happens if it is done."""
        with self.thread.changed:
            request.is_cancelled = True
            with contextlib.suppress(ValueError):
                self.thread.waiting.remove(request)

    def _run(self) -> None:
        while self._assign_places():
            try:
                with self._device:
                    decoded = self._batch.advance()
            except Exception as error:  # its requests fail, the next ones may not
                for request in self._by_place.values():
                    request.send(error)
                self._leave(list(self._by_place))
                continue
            for row in decoded:
                self._by_place[row.place].send(row)
            self._leave([row.place for row in decoded if row.done])

    def _assign_places(self) -> bool:
        """Waits for rows, frees places of cancelled ones, fills free places; returns False to stop.

        The batch itself is used by this thread only.
        """
        thread = self.thread
        with thread.changed:
            thread.changed.wait_for(lambda: thread.is_stopping or thread.waiting or self._by_place)
            self._leave([place for place, x in self._by_place.items() if x.is_cancelled])
            while thread.waiting and self._batch.taken < self._batch.places:
                request = thread.waiting.popleft()
                row = request.row
                place = self._batch.join(
                    row.ids, row.limit, request.search, request.line, request.guide
                )
                self._by_place[place] = request
            return not thread.is_stopping

    def _leave(self, places: list[int]) -> None:
        for place in places:
            del self._by_place[place]
            self._batch.leave(place)


Compute = Callable[[list[Any]], Sequence[Any]]


@dataclasses.dataclass(eq=False)
class _Job:
    key: Hashable
    compute: Compute
    inputs: list[Any]
    result: Future[Sequence[Any]] = dataclasses.field(default_factory=Future)


class BatchWorker:
    """Computes inputs that wait and have the same key in one call, first come, first served.

    Args:
      device: held while a program runs.
      most: number of inputs of a call; one request may have more.

    Attributes:
      thread: it ends after the present call when it is stopped; waiting calls are cancelled.
    """

    def __init__(self, device: contextlib.AbstractContextManager[object], most: int):
        self._device, self._most = device, most
        self.thread: Worker[_Job] = Worker(self._run, "batches")

    async def run(self, key: Hashable, compute: Compute, inputs: list[Any]) -> Sequence[Any]:
        """Returns compute(inputs); an input for which it raises fails its request alone."""
        job = _Job(key, compute, inputs)
        self.thread.put(job)
        return await asyncio.wrap_future(job.result)

    def _run(self) -> None:
        while jobs := self._next_jobs():
            if not self._compute(jobs) and len(jobs) > 1:
                for job in jobs:
                    self._compute([job])

    def _next_jobs(self) -> list[_Job]:
        """Returns the first job that is not cancelled and those with its key; [] to stop."""
        thread = self.thread
        with thread.changed:
            while True:
                thread.changed.wait_for(lambda: thread.is_stopping or thread.waiting)
                if thread.is_stopping:
                    for job in thread.waiting:
                        job.result.cancel()
                    return []
                waiting = [job for job in thread.waiting if not job.result.cancelled()]
                jobs: list[_Job] = []
                for job in waiting:
                    number = sum(len(other.inputs) for other in [*jobs, job])
                    if job.key == waiting[0].key and (not jobs or number <= self._most):
                        jobs.append(job)
                thread.waiting = collections.deque(job for job in waiting if job not in jobs)
                jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
                if jobs:
                    return jobs

    def _compute(self, jobs: list[_Job]) -> bool:
        """Returns whether the jobs have a result, or their only one an error."""
        try:
            with self._device:
                results = iter(jobs[0].compute([x for job in jobs for x in job.inputs]))
        except Exception as error:
            if len(jobs) > 1:
                return False
            jobs[0].result.set_exception(error)
            return True
        for job in jobs:
            job.result.set_result(list(itertools.islice(results, len(job.inputs))))
        return True
