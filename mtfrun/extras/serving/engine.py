"""Computes requests in the threads of executors: rows in a shared batch, everything else by key."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any

from mtfrun.data import PromptRow
from mtfrun.decoding import Guide, Search
from mtfrun.extras.serving.shared_batch import Decoded, SharedBatch
from mtfrun.extras.serving.text_stream import TextStream


@dataclasses.dataclass(eq=False)
class Request:
    """A row to decode, which waits for a place or has one.

    Attributes:
      output: its number among the outputs of an HTTP request, which share `events`.
      line: selects its draws, see `decoding.Sample`.
      stream: makes its text.
      events: gets newly decoded ids, or the error that ended the row.
      is_done: whether nothing more is to be decoded.
    """

    output: int
    row: PromptRow
    search: Search
    guide: Guide | None
    line: int
    stream: TextStream
    events: asyncio.Queue[tuple[Request, Decoded | Exception]]
    is_done: bool = False


class Engine:
    """Rows of all requests in one batch, first come, first served.

    Only the event loop changes the batch, but for its steps, which run in `device`.

    Attributes:
      by_place: the rows in the batch.
      waiting: the rows that wait for a place.
    """

    def __init__(self, batch: SharedBatch, device: Executor):
        self.batch, self._device = batch, device
        self.by_place: dict[int, Request] = {}
        self.waiting = collections.deque[Request]()
        self._has_rows = asyncio.Event()

    def put(self, request: Request) -> None:
        self.waiting.append(request)
        self._has_rows.set()

    def cancel(self, request: Request) -> None:
        """Frees the row's place before the next steps; nothing happens if it is done."""
        request.is_done = True
        with contextlib.suppress(ValueError):
            self.waiting.remove(request)

    async def run(self) -> None:
        """Decodes until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._assign_places()
            if not self.by_place:
                self._has_rows.clear()
                await self._has_rows.wait()
                continue
            try:
                results = await loop.run_in_executor(self._device, self.batch.advance)
            except Exception as error:  # its requests fail, the next ones may not
                for request in self.by_place.values():
                    request.is_done = True
                    request.events.put_nowait((request, error))
                continue
            for decoded in results:
                request = self.by_place[decoded.place]
                request.is_done |= decoded.done
                request.events.put_nowait((request, decoded))

    def _assign_places(self) -> None:
        for place in [place for place, request in self.by_place.items() if request.is_done]:
            del self.by_place[place]
            self.batch.leave(place)
        while self.waiting and self.batch.taken < self.batch.places:
            request = self.waiting.popleft()
            row = request.row
            place = self.batch.join(row.ids, row.limit, request.search, request.line, request.guide)
            self.by_place[place] = request


Compute = Callable[[list[Any]], Sequence[Any]]


@dataclasses.dataclass(eq=False)
class _Job:
    key: Hashable
    compute: Compute
    inputs: list[Any]
    results: Sequence[Any] | None = None


class Batches:
    """Computes inputs that wait and have the same key in one call, first come, first served.

    Args:
      device: has one thread.
      most: number of inputs of a call; one request may have more.
    """

    def __init__(self, device: Executor, most: int):
        self._device, self._most = device, most
        self._waiting: dict[_Job, None] = {}

    async def run(self, key: Hashable, compute: Compute, inputs: list[Any]) -> Sequence[Any]:
        """Returns compute(inputs); an input for which it raises fails its request alone."""
        job = _Job(key, compute, inputs)
        self._waiting[job] = None
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._device, self._compute, job)
        finally:
            self._waiting.pop(job, None)

    def _compute(self, job: _Job) -> Sequence[Any]:
        if job.results is not None:  # computed with an earlier one
            return job.results
        jobs, number = [job], len(job.inputs)
        for other in list(self._waiting):
            is_equal = other is not job and other.key == job.key
            if is_equal and number + len(other.inputs) <= self._most:
                number += len(other.inputs)
                jobs.append(other)
        for other in jobs:
            self._waiting.pop(other, None)
        try:
            results = iter(job.compute([x for other in jobs for x in other.inputs]))
        except Exception:
            if len(jobs) == 1:
                raise
            # One of the others may be wrong: each is computed alone, when it is its turn.
            return job.compute(job.inputs)
        for other in jobs:
            other.results = list(itertools.islice(results, len(other.inputs)))
        return jobs[0].results or []
