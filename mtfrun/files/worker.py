"""A thread with a queue."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from mtfrun.errors import InputError

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """A daemon thread that runs `work`, which waits by `take` or `pause` and ends after `stop`.

    Attributes:
      changed: the condition that both threads hold while they use what they share, such as
        `waiting`; it is notified by `put`, by `stop` and at the end of the thread.
      waiting: items that were not taken yet, the oldest first.
      is_stopping: whether `stop` was called.
      error: the exception that has ended the thread. Python prints it too if it is a defect.
    """

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self.changed = threading.Condition()
        self.waiting: collections.deque[Item] = collections.deque()
        self.is_stopping = False
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Does nothing if the thread was started before."""
        with self.changed:
            if self._thread.ident is None:
                self._thread.start()

    def put(self, item: Item) -> None:
        """Starts the thread with the first item."""
        with self.changed:
            self.waiting.append(item)
            self.changed.notify_all()
        self.start()

    def stop(self, secs: float | None = None) -> bool:
        """Waits for the end of the thread, at most so long; returns whether it has ended."""
        with self.changed:
            self.is_stopping = True
            self.changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(secs)
        return not self._thread.is_alive()

    def take(self) -> Item | None:
        """Waits for an item; None once the worker is stopped and no item waits."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting or self.is_stopping)
            return self.waiting.popleft() if self.waiting else None

    def pause(self, secs: float) -> bool:
        """Waits so long, or until the worker is stopped; returns whether it is."""
        with self.changed:
            return self.changed.wait_for(lambda: self.is_stopping, secs)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error
            if not isinstance(error, InputError):
                raise
        finally:
            with self.changed:
                self.changed.notify_all()
