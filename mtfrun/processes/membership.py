"""Functions that every package may call; in a process that has not joined they return at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, cast

from mtfrun.errors import ExitCode, InputError, LayoutError
from mtfrun.errors.differences import changes, list_changes
from mtfrun.processes import group
from mtfrun.processes.connection import Address, ProcessesError, Timeouts

_T = TypeVar("_T")

# Seconds for printing and cleaning up at the end: the standard streams may be blocked.
_LAST_SECS = 5.0


class _Membership:
    """This process's part in a run: `saved_step` is the newest saved step, or 0."""

    def __init__(self) -> None:
        self.group = group.Group()
        self.waited_secs = 0.0
        self.saved_step: int | None = None
        self.before_exit: Callable[[], object] = lambda: None
        self._ending = threading.Lock()

    def end(self, cause: str) -> NoReturn:
        """Ends this process, from any thread, even if all other threads wait in native code."""
        self._ending.acquire()  # for ever: only one cause is printed

        def print_and_clean_up() -> None:
            saved = "" if self.saved_step is None else "; no step was saved"
            if self.saved_step:
                step = f"; step {self.saved_step} is saved"
                saved = f"{step}, and the same command resumes from there"
            with contextlib.suppress(Exception):
                print(f"mtfrun: error: {cause}{saved}", file=sys.stderr, flush=True)
            with contextlib.suppress(Exception):
                self.before_exit()

        printing = threading.Thread(target=print_and_clean_up, daemon=True)
        printing.start()
        printing.join(_LAST_SECS)
        os._exit(ExitCode.LOST_PROCESS)


_OURS = _Membership()


def join(
    count: int,
    index: int,
    coordinator: str,
    *,
    token: str = "",
    timeouts: Timeouts = Timeouts(),  # noqa: B008 - it is frozen
    before_exit: Callable[[], object] = lambda: None,
) -> None:
    """Brings the processes of a run together; returns when all have come, at once if `count` is 1.

    To be called before TensorFlow is set up. From then on a process that fails, stops, or is killed
    ends all of them: they print one line and exit with `LOST_PROCESS`. `coordinator` is the
    "host:port" where the first process listens, `token` the secret that they share; a thread calls
    `before_exit` before another process ends this one, since no block is left then.

    Raises:
      InputError: the address is wrong, or the first process refuses this one.
      ProcessesError: not all processes have joined in time.
    """
    if count == 1:
        return
    address, _OURS.before_exit = Address.parse(coordinator), before_exit
    secret = hashlib.sha256(os.fsencode(token)).hexdigest()
    if index == 0:
        _OURS.group = group.Coordinator(count, address, timeouts, _OURS.end, secret)
    else:
        _OURS.group = group.Worker(index, count, address, timeouts, _OURS.end, secret)


def leave() -> None:
    """Waits until all processes call it; then this process is alone again."""
    _OURS.group.leave()
    _OURS.group = group.Group()


def count() -> int:
    """Returns how many processes train or evaluate together: 1 without a group."""
    return _OURS.group.count


def index() -> int:
    """Returns the number of this process, from 0."""
    return _OURS.group.index


def is_first() -> bool:
    """Returns whether this process prints, and writes files of the run."""
    return _OURS.group.index == 0


def host() -> str:
    """Returns the host name at which all processes of the run reach this one."""
    return _OURS.group.host


def waited_secs() -> float:
    """Returns how many seconds this process has waited for others so far."""
    return _OURS.waited_secs


def check_division(mesh: Mapping[str, int], num_processes: int) -> None:
    """Raises a LayoutError if the processes cannot have equal parts of a mesh."""
    size = math.prod(mesh.values())
    if size % num_processes:
        text = ";".join(f"{axis}:{length}" for axis, length in mesh.items())
        raise LayoutError(
            f"mesh {text} has {size} device(s), which {num_processes} processes do not divide: "
            "change the mesh, or the number of processes"
        )


def gather(value: Any, name: str = "gather") -> list[Any]:
    """Returns the JSON values of all processes, in their order.

    Like all functions below, it is collective: every process must call it, in the same order and
    with the same name, else all raise DisagreementError.
    """
    start = time.monotonic()
    values = _OURS.group.gather(name, value)
    _OURS.waited_secs += time.monotonic() - start
    return values


def agree(value: _T, name: str = "agree") -> _T:
    """Returns the first process's value, of JSON's types."""
    return cast(_T, gather(value, name)[0])


def by_first(function: Callable[[], _T], name: str = "by_first") -> _T:
    """Returns the JSON value of `function`, which only the first process calls.

    An InputError is raised in all processes; after another error, the other processes raise
    ProcessesErrors.
    """
    if not is_first():
        is_input_error, message, result = gather(None, name)[0]
        if message is None:
            return cast(_T, result)
        if is_input_error:
            raise InputError(message)
        raise ProcessesError(f"process 0 of {count()} failed: {message}")
    try:
        value = function()
    except Exception as error:
        gather(_describe(error), name)
        raise
    return cast(_T, gather([False, None, value], name)[0][2])


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Waits for the block in all processes; all raise its InputError, or a ProcessesError."""
    if count() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    errors = gather(None if error is None else _describe(error), name)
    if error is not None and (not isinstance(error, InputError) or _all_equal(errors)):
        raise error
    failed = [i for i, described in enumerate(errors) if described is not None]
    if failed:
        # An error that is not an InputError is a defect: it comes first.
        first = min(failed, key=lambda i: errors[i][0])
        raised_everywhere = InputError if errors[first][0] else ProcessesError
        raise raised_everywhere(f"process {first} of {count()}: {errors[first][1]}") from error


def check_same(what: str, settings: Mapping[str, Any], *, identity: str | None = None) -> None:
    """Raises the same InputError everywhere, for the first process with other JSON settings."""
    if count() == 1:
        return
    # Texts of megabytes are sent only if they differ.
    text = json.dumps(settings, sort_keys=True)
    if _all_equal(gather(hashlib.sha256(text.encode()).hexdigest(), f"hash of the {what}")):
        return
    values = gather([settings, group.this_process()], what)
    if not all(isinstance(v, list) and len(v) == 2 and isinstance(v[0], dict) for v in values):
        raise group.DisagreementError(
            f"a process has sent no {what}: start all with the same program"
        )
    for index, (other, place) in enumerate(values):
        differing = changes(values[0][0], other, identity=identity)
        if differing:
            raise InputError(
                f"{group.process_name(index, count(), place)} differs from process 0 in its "
                f"{what}: {list_changes(differing)}: start all processes with the same"
            )


def _describe(error: Exception) -> tuple[bool, str, None]:
    return isinstance(error, InputError), str(error) or type(error).__name__, None


def _all_equal(values: list[Any]) -> bool:
    return all(value == values[0] for value in values)


def note_saved(step: int) -> None:
    """Notes the newest saved step, or 0, for the line that reports a lost process."""
    _OURS.saved_step = step


def fail(line: str, *, may_follow: bool = False) -> bool:
    """Announces an error before `end`, see `Group.fail`; returns whether to print it."""
    return _OURS.group.fail(line, may_follow=may_follow)


def end(code: int) -> None:
    """Ends one of several processes after `fail`: the end of Python would wait for the others."""
    if count() == 1:
        return
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
