"""The thread that computes everything but the shared batch, several requests at once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

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
    """

    def __init__(self, device: contextlib.AbstractContextManager[object], most: int):
        self._device, self._most = device, most
        self._changed = threading.Condition()
        self._waiting: collections.deque[_Job] = collections.deque()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the present call is done; the waiting ones are cancelled."""
        with self._changed:
            self._is_stopping = True
            for job in self._waiting:
                job.result.cancel()
            self._changed.notify()
        self._thread.join()

    async def run(self, key: Hashable, compute: Compute, inputs: list[Any]) -> Sequence[Any]:
        """Returns compute(inputs); an input for which it raises fails its request alone."""
        job = _Job(key, compute, inputs)
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return await asyncio.wrap_future(job.result)

    def _run(self) -> None:
        while jobs := self._next_jobs():
            if not self._compute(jobs) and len(jobs) > 1:
                for job in jobs:
                    self._compute([job])

    def _next_jobs(self) -> list[_Job]:
        """Returns the first job that is not cancelled and those with its key; [] to stop."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._is_stopping or self._waiting)
                if self._is_stopping:
                    return []
                waiting = [job for job in self._waiting if not job.result.cancelled()]
                jobs: list[_Job] = []
                for job in waiting:
                    number = sum(len(other.inputs) for other in [*jobs, job])
                    if job.key == waiting[0].key and (not jobs or number <= self._most):
                        jobs.append(job)
                self._waiting = collections.deque(job for job in waiting if job not in jobs)
                jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
                if jobs:
                    return jobs

    def _compute(self, jobs: list[_Job]) -> bool:
        """Returns whether the jobs have a result, or their only one an error."""
        try:
            with self._device:
                results = jobs[0].compute([x for job in jobs for x in job.inputs])
        except Exception as error:
            if len(jobs) > 1:
                return False
            jobs[0].result.set_exception(error)
            return True
        begin = 0
        for job in jobs:
            job.result.set_result(results[begin : begin + len(job.inputs)])
            begin += len(job.inputs)
        return True
