"""The thread of requests beside the shared batch, several of which share a call."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from mtfrun.files import Worker

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
