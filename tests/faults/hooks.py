"""What a test changes in the process of a command, before it runs.

These are functions: `functools.partial(announce, ...)` is a `forked.Preparation`.
"""

from __future__ import annotations

import functools
import importlib
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

# Audit events: https://docs.python.org/3/library/audit_events.html
_OPERATIONS = frozenset(
    [
        *("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir"),
        *("os.link", "os.truncate", "shutil.rmtree"),
    ]
)


def replace(target: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    module, _, names = target.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, wrapper(getattr(owner, name)))


def set_constant(target: str, value: object) -> None:
    module, _, name = target.partition(":")
    setattr(importlib.import_module(module), name, value)


def set_environment(values: Mapping[str, str]) -> None:
    os.environ.update(values)


def announce(target: str, call: int, file: pathlib.Path, secs: float = 0.0) -> None:
    """Creates a file when a function is called for the `call`-th time, and waits before it runs."""
    calls = 0

    def announcing(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def announced(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                file.touch()
                time.sleep(secs)
            return function(*arguments, **options)

        return announced

    replace(target, announcing)


def slow_calls(secs: float, *targets: str) -> None:
    def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            time.sleep(secs)
            return function(*arguments)

        return call

    for target in targets:
        replace(target, slowed)


def fail_writes(error: int, directory: pathlib.Path) -> None:
    """Makes `os.fsync` fail below a directory, as network file systems report a quota.

    Root is exempt from quotas, so that a test cannot cause that error itself.
    """

    def failing(function: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            path = pathlib.Path(f"/proc/self/fd/{descriptor}").readlink()
            if path.is_relative_to(directory) and not path.is_dir():
                raise OSError(error, os.strerror(error))
            function(descriptor)

        return fsync

    replace("os:fsync", failing)


def fail_summaries(error: int) -> None:
    """Makes TensorFlow report an error of the system whenever summaries are flushed."""

    def flush(_: object) -> None:
        import tensorflow as tf  # noqa: PLC0415 - in the command's process

        raise tf.errors.ResourceExhaustedError(None, None, f"events; {os.strerror(error)}")

    replace("tensorflow:io.TFRecordWriter.flush", lambda _: flush)


def jumping_clock(file: pathlib.Path) -> None:
    replace("mtfrun.training.clock:seconds", lambda clock: lambda: clock() + 3600.0 * file.exists())


def count_operations(directory: pathlib.Path, file: pathlib.Path) -> None:
    """Writes the number of operations below a directory to a file, at every one of them."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT, 0o644)
    _at_operations(directory, lambda count: os.pwrite(descriptor, f"{count:8}".encode(), 0))


def kill_at_operation(directory: pathlib.Path, number: int, secs: float = 0.0) -> None:
    """Kills the process at the n-th operation below a directory, or some seconds after that.

    The seconds are for what TensorFlow does between two operations of Python: writing the data.
    """

    def kill() -> None:
        time.sleep(secs)
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_at(count: int) -> None:
        if count == number and secs:
            threading.Thread(target=kill, daemon=True).start()
        elif count == number:
            kill()

    _at_operations(directory, kill_at)


def _at_operations(directory: pathlib.Path, function: Callable[[int], object]) -> None:
    """Calls the function with the number of every operation, just before it, in its thread."""
    lock = threading.Lock()
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in _OPERATIONS or not arguments:
            return
        path = arguments[0]
        if isinstance(path, str | pathlib.Path) and str(path).startswith(str(directory)):
            with lock:
                count += 1
                current = count
            function(current)

    sys.addaudithook(hook)
