"""A lock for stores, which lack locks: an object that its holder renews."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import logging

from mtfrun.display import progress
from mtfrun.errors.untrusted import parse_json
from mtfrun.files import Store, StoreError, Worker
from mtfrun.files.errors import RunDirError
from mtfrun.files.lock import describe_process, this_process

RENEW_SECS = 30.0
EXPIRY_SECS = 90.0
"""A lease that does not change for so long is taken over."""

_NAME = ".lease.json"
# How often a new holder looks whether the former holder still renews its lease.
_LOOK_SECS = 5.0


class Lease:
    """The right to write a run at a URL: the object `.lease.json`, until `release`.

    No clocks are compared: a lease is alive if its object changes while another process looks. Two
    processes that start at the same moment may both get it where the store cannot create an object
    only if it does not exist; each `check` then ends all but the last.

    Args:
      place: a name that two processes on one machine share. The caller holds the local lock of
        that place, so a lease of the same place belongs to a process that was killed.
    """

    def __init__(self, store: Store, place: str) -> None:
        self._store = store
        self._fields = {"holder": secrets.token_hex(8), "place": place, **this_process()}
        self._worker: Worker[None] = Worker(self._renew, "lease")

    def acquire(self) -> None:
        """RunDirError if another process holds the lease, which takes up to EXPIRY_SECS to see."""
        while not self._store.create(_NAME, self._content()):
            other = self._store.read(_NAME)
            if other is None:
                continue
            if _parse(other).get("place") != self._fields["place"]:
                self._wait_for_expiry(other)
            self._store.write(_NAME, self._content())
            self.check()
            break
        self._worker.start()

    def check(self) -> None:
        """RunDirError if another process has taken the lease, because it was not renewed."""
        holder = _parse(self._store.read(_NAME))
        if holder.get("holder") != self._fields["holder"]:
            raise RunDirError(
                f"{self._store.url} is now trained by {describe_process(holder)}: this training "
                "has ended, its files of the last steps are not uploaded"
            )

    def release(self) -> None:
        self._worker.stop()
        try:
            self.check()
            self._store.delete([_NAME])
        except (StoreError, RunDirError) as error:
            logging.warning("the lease of %s remains: %s", self._store.url, error)

    def _content(self) -> bytes:
        return json.dumps({**self._fields, "time": time.time()}).encode()

    def _wait_for_expiry(self, before: bytes) -> None:
        deadline = time.monotonic() + EXPIRY_SECS
        holder, url = describe_process(_parse(before)), self._store.url
        with progress.waiting(
            f"waiting up to {EXPIRY_SECS:.0f} s for the end of {holder} at {url}"
        ):
            while time.monotonic() < deadline:
                time.sleep(min(_LOOK_SECS, EXPIRY_SECS / 4))
                now = self._store.read(_NAME)
                if now is None:
                    return
                if now != before:
                    raise RunDirError(
                        f"{url} is in use by {describe_process(_parse(now))}; stop that process or "
                        "name another --model_dir"
                    )

    def _renew(self) -> None:
        while not self._worker.pause(RENEW_SECS):
            try:
                self.check()
                self._store.write(_NAME, self._content())
            except StoreError:
                continue  # `check` notices if another process takes the lease meanwhile
            except RunDirError:
                return  # the next `check` of the caller raises the same


def is_leased(store: Store, folder: str = "", clock: Callable[[], float] = time.time) -> bool:
    """Whether a process has renewed the lease of a run lately, by the clocks of both machines."""
    renewed = _parse(store.read(f"{folder}{_NAME}")).get("time")
    return isinstance(renewed, float) and clock() - renewed < EXPIRY_SECS


def _parse(content: bytes | None) -> Mapping[str, Any]:
    try:
        fields = parse_json(content or b"")
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}
