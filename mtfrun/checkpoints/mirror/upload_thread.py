"""A thread that uploads a training's files."""

from __future__ import annotations

import time

from absl import logging

from mtfrun.checkpoints.mirror.copy import Mirror
from mtfrun.checkpoints.mirror.lease import Lease
from mtfrun.display import progress
from mtfrun.files import StoreError, Worker

EVERY_SECS = 30.0
"""How often records and curves are uploaded; checkpoints are, at once."""

MOST_SAVES = 4
"""Saves that may be pending while a store is slow or fails; the next save blocks."""

GIVE_UP_SECS = 600.0
"""How long a store that fails is tried again while a training waits for it."""

_LOOK_SECS = 0.5
_FIRST_PAUSE_SECS, _LONGEST_PAUSE_SECS = 1.0, 60.0


class Uploads:
    """Uploads the changes of a mirror in the background until `close`; retries failures.

    Training only waits for a save while `MOST_SAVES` others are not uploaded.
    """

    def __init__(self, mirror: Mirror, lease: Lease) -> None:
        self._mirror, self._lease = mirror, lease
        self._begun = self._uploaded = 0  # saves
        self._failure: StoreError | None = None
        self._failing_since = 0.0
        self._patience = GIVE_UP_SECS
        self._worker: Worker[None] = Worker(self._run, "uploads")
        self._worker.start()

    def begin_save(self) -> None:
        """Waits while too many saves are not uploaded; StoreError if the store does not recover.

        RunDirError if another process trains the run now.
        """
        with self._worker.changed:
            if self._is_full():
                with progress.waiting(f"waiting for {self._mirror.store.url}"):
                    while self._is_full():
                        self._worker.changed.wait(_LOOK_SECS)
                        self._check_patience()
            if self._worker.error is not None:
                raise self._worker.error
            self._begun += 1

    def close(self, *, patience: float | None = None) -> None:
        """Waits until all is uploaded, or has failed for `patience` seconds: then StoreError."""
        self._patience = GIVE_UP_SECS if patience is None else patience
        with progress.waiting(f"uploading the last files to {self._mirror.store.url}"):
            while not self._worker.stop(_LOOK_SECS):
                pass  # so that signals are handled
        if self._worker.error is not None:
            raise self._worker.error

    def _is_full(self) -> bool:
        return self._worker.error is None and self._begun - self._uploaded >= MOST_SAVES

    def _check_patience(self) -> None:
        if self._failure is not None and time.monotonic() - self._failing_since >= self._patience:
            raise StoreError(
                f"{self._failure}; nothing is lost: what is missing there is in "
                f"{self._mirror.path}, from which the same command uploads it"
            ) from self._failure

    def _run(self) -> None:
        pause, due = _FIRST_PAUSE_SECS, 0.0
        while True:
            is_closing, begun = self._worker.is_stopping, self._begun
            wait = time.sleep if is_closing else self._worker.pause
            try:
                if is_closing or time.monotonic() >= due or self._mirror.has_new_checkpoint():
                    due = time.monotonic() + EVERY_SECS
                    self._mirror.upload_changes(self._lease)
                    pause = _FIRST_PAUSE_SECS
                    self._end_upload(begun)
                    if is_closing:
                        return
            except StoreError as error:
                due = 0.0
                if self._failure is None:
                    self._failing_since = time.monotonic()
                    logging.warning("%s; training continues, and it is tried again", error)
                self._failure = error
                if is_closing:
                    self._check_patience()
                wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECS)
            wait(_LOOK_SECS)

    def _end_upload(self, begun: int) -> None:
        with self._worker.changed:
            if self._failure is not None:
                progress.note(f"mtfrun: uploads to {self._mirror.store.url} continue")
            self._failure, self._uploaded = None, begun
            self._worker.changed.notify_all()
