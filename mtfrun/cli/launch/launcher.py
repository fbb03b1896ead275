from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from mtfrun import processes
from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.cli.launch.children import Children, Output
from mtfrun.configuration.statements import Statements, macros_of
from mtfrun.errors import ExitCode, InputError
from mtfrun.processes import TOKEN_VARIABLE
from mtfrun.processes.child_process import forward_signals
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.run_directory import CHECKPOINTS

JOIN_SECS = 25.0
"""How long processes that are started at the same time wait for each other."""

GRACE_SECS = 5.0
"""From the first failure of a process until those that remain are killed."""

# The program that builds a configuration on smaller meshes; it imports TensorFlow.
_SMALLER_MESH = "mtfrun.cli.launch.smaller_mesh"

_MESH = re.compile(r"^(mtf\.)?Mesh\.shape$")
# Exit codes of errors that come again: bad input, and numbers that are not finite.
_PERMANENT = (2, 3)


@dataclasses.dataclass(frozen=True)
class SmallerMesh:
    """A run with fewer processes; `name` is the macro or parameter that sets its mesh."""

    num_processes: int
    mesh: str
    name: str = "Mesh.shape"

    @property
    def flag(self) -> str:
        return f"--gin.{self.name}={self.mesh!r}"


class GinSettings(NamedTuple):
    """`bindings` are pairs of a flag and its gin binding."""

    files: Sequence[str] = ()
    bindings: Sequence[tuple[str, str]] = ()
    search_paths: Sequence[str] = ()

    def with_mesh(self, smaller: SmallerMesh) -> GinSettings:
        binding = f"{smaller.name} = {smaller.mesh!r}"
        return self._replace(bindings=[*self.bindings, (smaller.flag, binding)])

    def check_division(self, num_processes: int) -> None:
        """Raises a LayoutError for a mesh in gin files that the processes do not divide.

        TensorFlow is not imported for it; other shapes of a mesh than texts pass.
        """
        statements = Statements()
        for name in self.files:
            statements.add_file(name, self.search_paths)
        for flag, text in self.bindings:
            statements.add_flag(flag, text)
        macros = macros_of(statements.bindings)
        shapes = [x.source(macros).value for x in statements.bindings if _MESH.search(x.name)]
        if shapes and isinstance(shapes[-1], str):
            axes = re.findall(r"(\w+):(\d+)", shapes[-1])
            processes.check_division({axis: int(size) for axis, size in axes}, num_processes)


@dataclasses.dataclass(frozen=True)
class Program:
    """What every process runs; process 0 reads `stdin`; `typed` is the launcher's command line."""

    python: Sequence[str]
    arguments: Sequence[str]
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

    def resume(self, smaller: SmallerMesh | None = None) -> Launch:
        """--restart is dropped: it would begin at step 0 again."""
        command = [word for word in self.program.command if word != "--restart"]
        settings, number = self.program.settings, self.num_processes
        if smaller is not None:
            command.append(smaller.flag)
            settings, number = settings.with_mesh(smaller), smaller.num_processes
        program = dataclasses.replace(self.program, command=command, settings=settings)
        return dataclasses.replace(self, program=program, num_processes=number)


def shrink(launch: Launch, remaining: int) -> SmallerMesh:
    """Returns the largest mesh on which the program can run with the remaining processes."""
    settings = json.dumps(launch.program.settings)
    numbers = [str(launch.num_processes), str(remaining)]
    process = subprocess.run(
        [*launch.program.python, "-m", _SMALLER_MESH, *numbers, settings],
        # Simulated devices: this machine need not have the devices of all processes.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        reason = (process.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"the run cannot go on with fewer processes: {reason}")
    return SmallerMesh(**json.loads(process.stdout.splitlines()[-1]))


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
            smaller = shrink(launch, remaining)
            launch = launch.resume(smaller)
            plan = f"going on with {smaller.num_processes} process(es), mesh {smaller.mesh}"
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
    shared = [f"--num_processes={number}", f"--coordinator=127.0.0.1:{_free_port()}"]
    if launch.devices_per_process is not None:
        shared.append(f"--devices_per_process={launch.devices_per_process}")
    shared.append(f"--join_secs={launch.join_secs:g}")
    start = [*program.python, *program.arguments, name]
    return [[*start, f"--process_id={i}", *shared, *flags] for i in range(number)]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
