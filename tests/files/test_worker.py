from __future__ import annotations

import pytest

from mtfrun.errors import InputError
from mtfrun.files import Worker


def test_a_worker_takes_what_waits_before_it_ends() -> None:
    taken = []

    def work() -> None:
        while (item := worker.take()) is not None:
            taken.append(item)

    worker: Worker[int] = Worker(work, "test")
    for item in range(100):
        worker.put(item)
    assert worker.stop()
    assert taken == [*range(100)] and worker.error is None


def test_stopping_ends_a_pause_and_a_thread_that_never_began() -> None:
    pauses = []
    worker: Worker[None] = Worker(lambda: pauses.append(worker.pause(60.0)), "test")
    worker.start()
    assert worker.stop(30.0)
    assert pauses == [True]
    assert Worker[None](pytest.fail, "test").stop()


def test_the_error_that_ends_the_thread_is_kept() -> None:
    def work() -> None:
        raise InputError("the store is full")

    worker: Worker[None] = Worker(work, "test")
    worker.start()
    assert worker.stop()
    assert str(worker.error) == "the store is full"
