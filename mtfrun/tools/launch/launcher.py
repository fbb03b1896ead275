from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import secrets
import socket
from collections.abc import Callable, Sequence

from mtfrun.errors import InputError
from mtfrun.processes import TOKEN_VARIABLE
from mtfrun.processes.supervisor import forward_signals
from mtfrun.tools.launch.children import Children, Start
from mtfrun.tools.launch.outcome import Outcome
from mtfrun.tools.launch.output import Output
from mtfrun.tools.launch.smaller_mesh import GinSettings, SmallerMesh, largest_that_fits

JOIN_SECS = 25.0
"""How long processes that are started at the same time wait for each other."""

GRACE_SECS = 5.0
"""From the first failure of a process until those that remain are killed."""

# The name of a checkpoint's last file; mtfrun.rundir, which defines it, imports TensorFlow.
_MANIFEST = re.compile(r"ckpt-([0-9]+)\.json")


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
        program = self.program
        command = [word for word in program.command if word != "--restart"]
        if smaller is None:
            return dataclasses.replace(self, program=dataclasses.replace(program, command=command))
        settings = program.settings.with_binding(smaller.flag, smaller.binding)
        program = dataclasses.replace(program, command=[*command, smaller.flag], settings=settings)
        return dataclasses.replace(self, program=program, num_processes=smaller.num_processes)


# Returns the largest smaller mesh that fits a number of processes, or raises an InputError.
Shrink = Callable[[Launch, int], SmallerMesh]


def shrink(launch: Launch, remaining: int) -> SmallerMesh:
    program = launch.program
    return largest_that_fits(program.python, program.settings, launch.num_processes, remaining)


class Launcher:
    """`shrink` chooses the mesh of a run that continues without lost processes."""

    def __init__(self, launch: Launch, output: Output, shrink: Shrink = shrink) -> None:
        self._launch = launch
        self._output = output
        self._shrink = shrink
        self._children: Children | None = None
        self._signal: int | None = None

    def run(self) -> int:
        """Returns the exit code: 0, or of the process whose end was the cause."""
        launch = self._launch
        with forward_signals(self._forward):
            for restart in range(launch.max_restarts + 1):
                outcome = self._run_once(launch)
                if outcome.cause is None:
                    return 0
                if not outcome.is_transient or restart == launch.max_restarts:
                    self._explain(outcome)
                    break
                try:
                    launch = self._next(launch, outcome, restart + 1)
                except InputError as error:
                    self._output.error(f"{outcome.describe()}; {error}")
                    break
        return outcome.code

    def _run_once(self, launch: Launch) -> Outcome:
        self._output.forget()
        children = self._children = Children(
            _starts(launch), self._output, stdin=launch.program.stdin, grace_secs=launch.grace_secs
        )
        with contextlib.closing(children):
            if self._signal is not None:  # it came before they were there
                children.send_signal(self._signal)
            children.wait(is_stopping=lambda: self._signal is not None)
        return Outcome(children.codes, children.killed, self._signal)

    def _next(self, launch: Launch, outcome: Outcome, number: int) -> Launch:
        text, remaining = outcome.describe(), launch.num_processes - len(outcome.lost)
        if launch.is_elastic and 0 < remaining < launch.num_processes:
            smaller = self._shrink(launch, remaining)
            launch = launch.resume(smaller)
            plan = f"going on with {smaller.num_processes} process(es), mesh {smaller.mesh}"
        else:
            launch = launch.resume()
            plan = "starting all again"
        self._output.note(
            f"{text}; {plan}, {_from_step(launch.program.model_dir)} (restart {number} of "
            f"{launch.max_restarts})"
        )
        return launch

    def _explain(self, outcome: Outcome) -> None:
        """Prints the one line that names a process that has failed, unless a process has."""
        if outcome.signal is not None or self._output.errors:
            return
        step = newest_step(self._launch.program.model_dir)
        safe = "no step is saved" if step is None else f"the last saved step is {step}"
        self._output.error(f"{outcome.describe()}; {safe}")

    def _forward(self, number: int) -> None:
        self._signal = self._signal or number
        if self._children is not None:
            self._children.send_signal(number)


def newest_step(model_dir: str | None) -> int | None:
    """Reads only the names of files."""
    folder = pathlib.Path(os.path.expanduser(model_dir or os.devnull)) / "checkpoints"
    with contextlib.suppress(OSError):
        matches = [_MANIFEST.fullmatch(path.name) for path in folder.iterdir()]
        return max((int(match[1]) for match in matches if match), default=None)
    return None


def _from_step(model_dir: str | None) -> str:
    step = newest_step(model_dir)
    return "from the beginning" if step is None else f"from step {step}"


def _starts(launch: Launch) -> list[Start]:
    program, number_of = launch.program, launch.num_processes
    name, *flags = program.command
    shared = [f"--num_processes={number_of}", f"--coordinator=127.0.0.1:{_free_port()}"]
    if launch.devices_per_process is not None:
        shared.append(f"--devices_per_process={launch.devices_per_process}")
    shared.append(f"--join_secs={launch.join_secs:g}")
    environment = {TOKEN_VARIABLE: secrets.token_hex()}
    return [
        Start(
            [*program.python, *program.arguments, name, f"--process_id={i}", *shared, *flags],
            program.typed,
            environment,
        )
        for i in range(number_of)
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
