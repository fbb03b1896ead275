from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import NamedTuple

from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.cli.launch.children import Children, Output
from mtfrun.configuration.statements import Statements, macros_of, name_to_override
from mtfrun.errors import ExitCode, InputError
from mtfrun.processes import TOKEN_VARIABLE
from mtfrun.processes.child_process import forward_signals, last_error
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.run_directory import CHECKPOINTS

JOIN_SECS = 25.0
"""How long processes that are started at the same time wait for each other."""

GRACE_SECS = 5.0
"""From the first failure of a process until those that remain are killed."""

# The dimensions of a batch that a mesh axis may split.
_OF_BATCHES = ("batch", "outer_batch")
# Exit codes of errors that come again: bad input, and numbers that are not finite.
_PERMANENT = (2, 3)


class GinSettings(NamedTuple):
    """`bindings` are pairs of a flag and its gin binding."""

    files: Sequence[str] = ()
    bindings: Sequence[tuple[str, str]] = ()
    search_paths: Sequence[str] = ()

    def mesh(self) -> tuple[str, dict[str, int], dict[str, str]]:
        """Returns the name that sets the mesh's shape, the sizes of its axes, and the layout.

        TensorFlow is not imported for it; shapes and layouts that are not texts are empty.
        """
        statements = Statements()
        for name in self.files:
            statements.add_file(name, self.search_paths)
        for flag, text in self.bindings:
            statements.add_flag(flag, text)
        macros = macros_of(statements.bindings)
        values = {x.name.removeprefix("mtf."): x.source(macros).value for x in statements.bindings}
        name = name_to_override(statements.bindings, "mtf.Mesh.shape")
        shape, layout = (str(values.get(f"Mesh.{x}", "")) for x in ("shape", "layout"))
        sizes = {axis: int(size) for axis, size in re.findall(r"(\w+):(\d+)", shape)}
        return name, sizes, dict(re.findall(r"(\w+):(\w+)", layout))


@dataclasses.dataclass(frozen=True)
class Program:
    """What every process runs; process 0 reads `stdin`; `typed` is the launcher's command line."""

    start: Sequence[str]
    command: Sequence[str]
    model_dir: str | None = None
    stdin: int | None = None
    typed: Sequence[str] = ()
    settings: GinSettings = GinSettings()  # noqa: RUF009 - it is immutable


@dataclasses.dataclass(frozen=True)
class Launch:
    """`devices_per_process`: None for the mesh's share; `is_elastic`: run without lost processes.

    Processes wait `join_secs` for each other; `grace_secs` after the first failure they are killed.
    """

    program: Program
    num_processes: int
    devices_per_process: int | None = None
    max_restarts: int = 0
    is_elastic: bool = False
    join_secs: float = JOIN_SECS
    grace_secs: float = GRACE_SECS

    def resume(self, num_processes: int | None = None, flag: str | None = None) -> Launch:
        """Returns the next launch, with another mesh by a `flag`."""
        # --restart would begin at step 0 again.
        command = [word for word in self.program.command if word != "--restart"]
        settings = self.program.settings
        if flag is not None:
            command.append(flag)
            binding = flag.removeprefix("--gin.").replace("=", " = ", 1)
            settings = settings._replace(bindings=[*settings.bindings, (flag, binding)])
        program = dataclasses.replace(self.program, command=command, settings=settings)
        number = self.num_processes if num_processes is None else num_processes
        return dataclasses.replace(self, program=program, num_processes=number)


def smaller_meshes(
    sizes: Mapping[str, int], axis: str, num_processes: int, remaining: int
) -> Iterator[tuple[int, str]]:
    """Yields numbers of processes and meshes with as many devices each, the largest first.

    >>> list(smaller_meshes({"data": 4, "model": 2}, "data", 4, 2))
    [(2, 'data:2,model:2'), (1, 'data:1,model:2')]
    """
    for number in range(remaining, 0, -1):
        if sizes[axis] * number % num_processes == 0:
            smaller = {**sizes, axis: sizes[axis] * number // num_processes}
            yield number, ",".join(f"{name}:{size}" for name, size in smaller.items())


def shrink(launch: Launch, remaining: int) -> tuple[Launch, str]:
    """Returns the program on the largest mesh that the remaining processes can build, and this."""
    name, sizes, layout = launch.program.settings.mesh()
    axes = list(dict.fromkeys(layout[dim] for dim in _OF_BATCHES if layout.get(dim) in sizes))
    reason = "the layout does not split the batch over an axis of the mesh"
    if axes:
        reason = f"no axis of {' and '.join(map(repr, axes))} can be divided by the processes"
    for axis in axes:
        for number, mesh in smaller_meshes(sizes, axis, launch.num_processes, remaining):
            smaller = launch.resume(number, f"--gin.{name}={mesh!r}")
            process = subprocess.run(
                [*launch.program.start, *smaller.program.command, "--dry_run"],
                # Simulated devices: this machine need not have the devices of all processes.
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
            )
            if not process.returncode:
                return smaller, mesh
            reason = last_error(process.stderr) or "no reason given"
    raise InputError(f"the run cannot go on with fewer processes: {reason}")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`codes` are in the order of the ends, negative for signals; `killed` by the launcher."""

    codes: Mapping[int, int]
    killed: Set[int] = frozenset()
    signal: int | None = None

    @property
    def cause(self) -> int | None:
        """The first failure by itself, or a killed process if the rest only report a lost one."""
        failed = [number for number, code in self.codes.items() if code]
        causes = [
            n for n in failed if n not in self.killed and self.codes[n] != ExitCode.LOST_PROCESS
        ]
        candidates = causes or sorted(self.killed) or failed
        return candidates[0] if candidates else None

    @property
    def code(self) -> int:
        """The exit code of the launcher: the cause's, 128 + number for a signal."""
        if self.cause is None:
            return 0
        code = self.codes[self.cause]
        if self.signal is not None and code in (ExitCode.LOST_PROCESS, -self.signal):
            return 128 + self.signal
        return 128 - code if code < 0 else code

    @property
    def lost(self) -> set[int]:
        """The processes that did not end by themselves: the machine took them, or they hung."""
        if self.cause is None or not self.is_transient:
            return set()
        if self.cause in self.killed:
            return set(self.killed)
        return {self.cause} if self.codes[self.cause] < 0 else set()

    @property
    def is_transient(self) -> bool:
        return self.cause is not None and self.signal is None and self.code not in _PERMANENT

    def describe(self) -> str:
        """Returns "process 1 of 2 was ended by SIGKILL"."""
        assert self.cause is not None
        who, code = f"process {self.cause} of {len(self.codes)}", self.codes[self.cause]
        if self.cause in self.killed:
            return f"{who} did not react and was killed"
        if code < 0:
            return f"{who} was ended by {signal.Signals(-code).name}"
        if code == ExitCode.LOST_PROCESS:
            return f"{who} has lost another process"
        return f"{who} failed with exit code {code}"


class Launcher:
    def __init__(self, launch: Launch, output: Output) -> None:
        self._launch = launch
        self._output = output
        self._children: Children | None = None
        self._signal: int | None = None

    def run(self) -> int:
        """Returns the exit code: 0, or of the process whose end was the cause."""
        launch, restarts = self._launch, 0
        with forward_signals(self._forward):
            while True:
                outcome = self._run_once(launch)
                if outcome.cause is None:
                    return 0
                if not outcome.is_transient or restarts == launch.max_restarts:
                    self._explain(outcome)
                    break
                restarts += 1
                try:
                    launch = self._next(launch, outcome, restarts)
                except InputError as error:
                    self._output.error(f"{outcome.describe()}; {error}")
                    break
        return outcome.code

    def _run_once(self, launch: Launch) -> Outcome:
        self._output.forget()
        children = self._children = Children(
            _commands(launch),
            launch.program.typed,
            {TOKEN_VARIABLE: secrets.token_hex()},
            self._output,
            stdin=launch.program.stdin,
            grace_secs=launch.grace_secs,
        )
        with contextlib.closing(children):
            if self._signal is not None:  # it came before they were there
                children.send_signal(self._signal)
            children.wait(is_stopping=lambda: self._signal is not None)
        return Outcome(children.codes, children.killed, self._signal)

    def _next(self, launch: Launch, outcome: Outcome, restart: int) -> Launch:
        step = _newest_step(launch.program.model_dir)
        remaining = launch.num_processes - len(outcome.lost)
        if launch.is_elastic and 0 < remaining < launch.num_processes:
            launch, mesh = shrink(launch, remaining)
            plan = f"going on with {launch.num_processes} process(es), mesh {mesh}"
        else:
            launch = launch.resume()
            plan = "starting all again"
        start = "from the beginning" if step is None else f"from step {step}"
        counted = f"(restart {restart} of {launch.max_restarts})"
        self._output.note(f"{outcome.describe()}; {plan}, {start} {counted}")
        return launch

    def _explain(self, outcome: Outcome) -> None:
        """Prints the one line that names a process that has failed, unless a process has."""
        if outcome.signal is not None or self._output.errors:
            return
        step = _newest_step(self._launch.program.model_dir)
        safe = "no step is saved" if step is None else f"the last saved step is {step}"
        self._output.error(f"{outcome.describe()}; {safe}")

    def _forward(self, number: int) -> None:
        self._signal = self._signal or number
        if self._children is not None:
            self._children.send_signal(number)


def _newest_step(model_dir: str | None) -> int | None:
    if model_dir is None:
        return None
    return max(list_steps(pathlib.Path(RunDirectory(model_dir).path, CHECKPOINTS)), default=None)


def _commands(launch: Launch) -> list[list[str]]:
    program, number = launch.program, launch.num_processes
    name, *flags = program.command
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    shared = [f"--num_processes={number}", f"--coordinator={address}"]
    if launch.devices_per_process is not None:
        shared.append(f"--devices_per_process={launch.devices_per_process}")
    shared.append(f"--join_secs={launch.join_secs:g}")
    start = [*program.start, name]
    return [[*start, f"--process_id={i}", *shared, *flags] for i in range(number)]
