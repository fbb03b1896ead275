"""The thread that decodes the rows of all requests in one shared batch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from typing import NamedTuple

from mtfrun.data import PromptRow
from mtfrun.decoding import Guide, Search
from mtfrun.extras.serving.shared_batch.shared_batch import Decoded, SharedBatch
from mtfrun.files import Worker


class News(NamedTuple):
    """What has been decoded of one row of a request, or why nothing more will be."""

    row: int
    decoded: Decoded | Exception


@dataclasses.dataclass(eq=False)
class Ticket:
    """A row of a request, which waits for a place or has one.

    Attributes:
      number: number of the row in its request.
      line: selects its draws, see `decoding.Sample`.
      queue: queue of its events, in the event loop; rows of a request share it.
    """

    number: int
    row: PromptRow
    search: Search
    line: int
    queue: asyncio.Queue[News]
    guide: Guide | None = None
    loop: asyncio.AbstractEventLoop = dataclasses.field(default_factory=asyncio.get_running_loop)
    is_cancelled: bool = False

    def tell(self, news: Decoded | Exception) -> None:
        # The loop is closed if the server has been stopped.
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.queue.put_nowait, News(self.number, news))


class Engine:
    """Rows of all requests in one batch, first come, first served.

    Args:
      device: held while a program runs.

    Attributes:
      thread: it ends after the present steps when it is stopped.
    """

    def __init__(self, batch: SharedBatch, device: contextlib.AbstractContextManager[object]):
        self._batch, self._device = batch, device
        self._at: dict[int, Ticket] = {}
        self.thread: Worker[Ticket] = Worker(self._run, "decoding")

    @property
    def waiting(self) -> int:
        return len(self.thread.waiting)

    @property
    def active(self) -> int:
        return len(self._at)

    def submit(self, ticket: Ticket) -> None:
        self.thread.put(ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Frees the row's place before the next steps; nothing happens if it is done."""
        with self.thread.changed:
            ticket.is_cancelled = True
            with contextlib.suppress(ValueError):
                self.thread.waiting.remove(ticket)

    def _run(self) -> None:
        while self._assign_places():
            try:
                with self._device:
                    decoded = self._batch.advance()
            except Exception as error:  # its requests fail, the next ones may not
                self._leave(list(self._at), error)
                continue
            for news in decoded:
                self._at[news.place].tell(news)
            self._leave([news.place for news in decoded if news.done])

    def _assign_places(self) -> bool:
        """Waits for rows, frees places of cancelled ones, fills free places; returns False to stop.

        The batch itself is used by this thread only.
        """
        thread = self.thread
        with thread.changed:
            thread.changed.wait_for(lambda: thread.is_stopping or thread.waiting or self._at)
            self._leave([place for place, ticket in self._at.items() if ticket.is_cancelled])
            while thread.waiting and self._batch.taken < self._batch.places:
                ticket = thread.waiting.popleft()
                row, search, line = ticket.row, ticket.search, ticket.line
                place = self._batch.join(row.ids, row.limit, search, line, ticket.guide)
                self._at[place] = ticket
            return not thread.is_stopping

    def _leave(self, places: list[int], error: Exception | None = None) -> None:
        for place in places:
            ticket = self._at.pop(place)
            self._batch.leave(place)
            if error is not None:
                ticket.tell(error)
