"""What may happen to a training, each made from outside of its processes."""

from __future__ import annotations

import abc
import dataclasses
import os
import pathlib
import random
import resource
import signal
import threading
from typing import ClassVar, NamedTuple

from mtfrun.checks import COUNT, INDEX, POSITIVE, Range, check_choice, check_fields
from mtfrun.errors import InputError
from mtfrun.rundir.checkpoints.manifest import manifest_path, read_manifest
from mtfrun.rundir.checkpoints.partial_files import list_steps
from mtfrun.rundir.run_directory import CHECKPOINTS
from mtfrun.tools.chaos.connections import cut_connections
from mtfrun.tools.chaos.jumping_clock import jump
from mtfrun.tools.launch.children import Children

_TIMES = Range(1, 1000, whole=True)
_ENDING = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")


class Target(NamedTuple):
    """The process to disturb, the directory of the run, and the file of the process's clock."""

    children: Children
    process: int
    run: pathlib.Path
    clock: pathlib.Path

    @property
    def pid(self) -> int | None:
        """Returns None for a process that has ended."""
        return self.children.pid(self.process)

    def signal(self, number: int) -> bool:
        """Returns whether the process was there."""
        return self.children.signal_process(self.process, number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault(abc.ABC):
    """One kind of fault.

    Attributes:
      at_step: it happens when the ledger has this step; None draws the step.
      process: the index of the process; None draws it.
      times: how often, each time at another step that is drawn.
    """

    at_step: int | None = None
    process: int | None = None
    times: int = 1

    needs_clock: ClassVar[bool] = False
    """Whether the training has to read the clock of `Target`."""

    def __post_init__(self) -> None:
        name = type(self).__name__
        check_fields(self, COUNT, "at_step", optional=True)
        check_fields(self, INDEX, "process", optional=True)
        check_fields(self, _TIMES, "times")
        if self.times > 1 and self.at_step is not None:
            raise InputError(
                f"{name}.times is {self.times}, {name}.at_step {self.at_step}: a fault at a given "
                "step happens once; leave one of them out"
            )

    def check(self, num_processes: int) -> None:
        """Raises InputError if it cannot happen to a training of so many processes."""
        if self.process is not None and self.process >= num_processes:
            raise InputError(
                f"{type(self).__name__}.process is {self.process}: there are {num_processes} "
                "process(es), numbered from 0"
            )

    @abc.abstractmethod
    def strike(self, target: Target) -> str | None:
        """Makes it happen, and describes it; returns None if it is not possible yet."""

    def settle(self, run: pathlib.Path, rng: random.Random) -> str:
        """Called when all processes have ended; describes what it does then, or returns ""."""
        del run, rng
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kill(Fault):
    """Ends a process by a signal: SIGKILL, or one after which it saves, such as SIGTERM."""

    signal: str = "SIGKILL"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("Kill.signal", self.signal, _ENDING)

    def strike(self, target: Target) -> str | None:
        return self.signal if target.signal(signal.Signals[self.signal]) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop(Fault):
    """Stops a process for ever, as one that hangs: the others have to notice."""

    def check(self, num_processes: int) -> None:
        super().check(num_processes)
        if num_processes == 1:
            raise InputError(
                "Stop needs a second process, which notices that the first one has stopped: give "
                "-n 2, or use Delay"
            )

    def strike(self, target: Target) -> str | None:
        return "SIGSTOP" if target.signal(signal.SIGSTOP) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delay(Fault):
    """Stops a process for some seconds, as a machine that is busy or was suspended."""

    secs: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, POSITIVE, "secs")

    def strike(self, target: Target) -> str | None:
        if not target.signal(signal.SIGSTOP):
            return None
        timer = threading.Timer(self.secs, target.signal, [signal.SIGCONT])
        timer.daemon = True
        timer.start()
        return f"SIGSTOP, SIGCONT after {self.secs:g} s"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipBit(Fault):
    """Kills a process and changes a bit of the newest of two or more checkpoints."""

    def strike(self, target: Target) -> str | None:
        if len(list_steps(target.run / CHECKPOINTS)) < 2:
            return None
        return "SIGKILL" if target.signal(signal.SIGKILL) else None

    def settle(self, run: pathlib.Path, rng: random.Random) -> str:
        directory = run / CHECKPOINTS
        steps = list_steps(directory)
        if len(steps) < 2:
            return "no bit was changed: there is one checkpoint"
        manifest = read_manifest(directory, steps[-1])
        names = [manifest_path(directory, steps[-1]).name, *manifest.files]
        # A process without variables writes an empty part.
        path = rng.choice([path for name in names if (path := directory / name).stat().st_size])
        content = bytearray(path.read_bytes())
        offset, bit = rng.randrange(len(content)), rng.randrange(8)
        content[offset] ^= 1 << bit
        path.write_bytes(content)
        return f"bit {bit} of byte {offset:,} of {path.name} was changed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullDisk(Fault):
    """Lets a process write no file beyond some bytes, until it has ended."""

    size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, INDEX, "size")

    def check(self, num_processes: int) -> None:
        super().check(num_processes)
        _require_linux(self, is_there=hasattr(resource, "prlimit"))

    def strike(self, target: Target) -> str | None:
        pid = target.pid
        if pid is None:
            return None
        try:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (int(self.size), hard))
        except ProcessLookupError:  # it has just ended
            return None
        return f"no file can become larger than {self.size:,} bytes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutConnection(Fault):
    """Cuts the TCP connections of a process, to the other ones and to a store."""

    def check(self, num_processes: int) -> None:
        super().check(num_processes)
        _require_linux(self, is_there=hasattr(os, "pidfd_open"))

    def strike(self, target: Target) -> str | None:
        number = cut_connections(target.pid) if target.pid is not None else 0
        return f"{number} connection(s) were cut" if number else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClockJump(Fault):
    """Lets the clock of a process jump forwards, as where a machine was suspended for hours.

    It is the clock of the training loop: of everything that is due by time, and of speeds.
    """

    secs: float = 3600.0

    needs_clock: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, POSITIVE, "secs")

    def strike(self, target: Target) -> str | None:
        if target.pid is None:
            return None
        jump(target.clock, self.secs)
        return f"the clock jumped by {self.secs:g} s"


def _require_linux(fault: Fault, *, is_there: bool) -> None:
    if not is_there:
        raise InputError(f"{type(fault).__name__} needs a system call of Linux: leave it out")


FAULTS: dict[str, type[Fault]] = {
    fault.__name__: fault
    for fault in (Kill, Stop, Delay, FlipBit, FullDisk, CutConnection, ClockJump)
}
"""All kinds by name."""
