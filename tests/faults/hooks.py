"""What a test changes in the process of a command, before it runs; see `forked.Preparation`."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Announce:
    """Creates a file when a function is called for the n-th time, and then calls it.

    Attributes:
      target: "package.module:Class.method" or "package.module:function".
      call: n, from 1.
      file: is created.
      secs: to wait between both.
    """

    target: str
    call: int
    file: str
    secs: float = 0.0

    def __call__(self) -> None:
        """Replaces the function by one that announces the call."""
        calls = 0

        def announcing(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def announced(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == self.call:
                    pathlib.Path(self.file).touch()
                    time.sleep(self.secs)
                return function(*arguments, **options)

            return announced

        replace(self.target, announcing)


@dataclasses.dataclass(frozen=True)
class SlowDisk:
    """Makes every forced write to the disk take some seconds more.

    Attributes:
      secs: of each.
    """

    secs: float

    def __call__(self) -> None:
        """Replaces `os.fsync`."""

        def slowed(function: Callable[[int], None]) -> Callable[[int], None]:
            def fsync(descriptor: int) -> None:
                time.sleep(self.secs)
                function(descriptor)

            return fsync

        replace("os:fsync", slowed)


@dataclasses.dataclass(frozen=True)
class Several:
    """Several preparations, one after the other."""

    preparations: Sequence[Callable[[], object]]

    def __call__(self) -> None:
        """Calls them."""
        for preparation in self.preparations:
            preparation()


@dataclasses.dataclass(frozen=True)
class FailingWrites:
    """Makes calls fail with an error of the system, from the n-th on, below a directory.

    For errors that a test cannot cause, such as that of a quota, from which root is exempt.

    Attributes:
      number: of the error, such as errno.EDQUOT.
      directory: where; other files are not touched.
      first: the forced write from which on they fail, from 1.
    """

    number: int
    directory: str
    first: int = 1

    def __call__(self) -> None:
        """Replaces `os.fsync`, which is where network file systems report a quota."""
        lock = threading.Lock()
        calls = 0

        def failing(function: Callable[[int], None]) -> Callable[[int], None]:
            def fsync(descriptor: int) -> None:
                nonlocal calls
                path = str(pathlib.Path(f"/proc/self/fd/{descriptor}").readlink())
                if path.startswith(self.directory) and not pathlib.Path(path).is_dir():
                    with lock:
                        calls += 1
                    if calls >= self.first:
                        raise OSError(self.number, os.strerror(self.number))
                function(descriptor)

            return fsync

        replace("os:fsync", failing)


def replace(target: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replaces a function, "module:name" or "module:Class.name", by what `wrapper` makes of it."""
    module, _, names = target.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, wrapper(getattr(owner, name)))


@dataclasses.dataclass(frozen=True)
class FailingSummaries:
    """Makes TensorFlow report an error of the system whenever summaries are flushed."""

    number: int

    def __call__(self) -> None:
        """Replaces the method of TensorFlow's writer."""

        def failing(_: Callable[..., None]) -> Callable[..., None]:
            def flush(_: object) -> None:
                import tensorflow as tf  # noqa: PLC0415 - in the command's process

                raise tf.errors.ResourceExhaustedError(
                    None, None, f"events; {os.strerror(self.number)}"
                )

            return flush

        replace("tensorflow:io.TFRecordWriter.flush", failing)


@dataclasses.dataclass(frozen=True)
class Environment:
    """Sets environment variables."""

    values: Mapping[str, str]

    def __call__(self) -> None:
        """Sets them."""
        os.environ.update(self.values)


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sets a constant, "module:NAME"."""

    target: str
    value: object

    def __call__(self) -> None:
        """Sets it."""
        module, _, name = self.target.partition(":")
        setattr(importlib.import_module(module), name, self.value)


@dataclasses.dataclass(frozen=True)
class JumpingClock:
    """Lets the clock of the training loop jump by an hour as soon as a file exists."""

    file: str

    def __call__(self) -> None:
        """Replaces the clock of the loop."""
        path = pathlib.Path(self.file)

        def jumping(clock: Callable[[], float]) -> Callable[[], float]:
            return lambda: clock() + 3600.0 * path.exists()

        replace("mtfrun.training.clock:seconds", jumping)


@dataclasses.dataclass(frozen=True)
class SlowStore:
    """Makes every upload to a store take some seconds more.

    Attributes:
      secs: of each.
    """

    secs: float

    def __call__(self) -> None:
        """Replaces the methods that write."""

        def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                time.sleep(self.secs)
                return function(*arguments)

            return call

        for name in ("upload", "write", "delete"):
            replace(f"mtfrun.files.store:Store.{name}", slowed)
