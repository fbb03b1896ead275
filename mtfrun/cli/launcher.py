"""The processes of one run on this machine: their output, end and restart."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import pathlib
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import IO, TextIO

from mtfrun.checkpoints.partial_files import list_steps
from mtfrun.cli.smaller_mesh import choose_smaller_mesh
from mtfrun.errors import ExitCode, InputError
from mtfrun.processes import TOKEN_VARIABLE
from mtfrun.processes.child_process import forward_signals, start_child
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.run_directory import CHECKPOINTS

JOIN_SECS = 25.0
"""How long processes that are started at the same time wait for each other."""

GRACE_SECS = 5.0
"""From the first failure of a process until those that remain are killed."""

# Exit codes of errors that come again: bad input, and numbers that are not finite.
_PERMANENT = (2, 3)
_POLL_SECS = 0.05
# For the last output, after which only processes that the children have started may write more.
_LAST_SECS = 1.0
_CHUNK_BYTES = 1 << 16
_LINES = re.compile(rb"[^\n]*\n|[^\n]+")
_ERROR, _WARNING = b"mtfrun: error: ", b"mtfrun: warning: "


class Children:
    """Started processes, of which process 0 alone has standard input and standard output.

    After the first failure stopped processes (SIGSTOP) are killed, and `grace_secs` later the rest,
    which should have noticed it and left unless they wait in native code. `typed` is the
    launcher's command line. `codes` are exit codes in the order of the ends, negative for signals.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        typed: Sequence[str],
        environment: Mapping[str, str],
        output: Output,
        *,
        stdin: int | None = None,
        grace_secs: float,
    ) -> None:
        self.codes: dict[int, int] = {}
        self.killed: set[int] = set()
        self._grace_secs = grace_secs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        try:
            for number, command in enumerate(commands):
                process = start_child(
                    command,
                    typed,
                    environment,
                    stdin=subprocess.DEVNULL if number or stdin is None else subprocess.PIPE,
                    stdout=subprocess.PIPE if number else None,
                    stderr=subprocess.PIPE,
                )
                self._processes.append(process)
                for stream in filter(None, (process.stdout, process.stderr)):
                    self._readers.append(_start_thread(output.forward, number, stream))
        except OSError:
            self.close()
            raise
        if stdin is not None:
            # Not inherited by the process: a terminal stops a reader that is in the background.
            _start_thread(_forward, stdin, self._processes[0].stdin)

    @property
    def running(self) -> list[int]:
        return [number for number in range(len(self._processes)) if number not in self.codes]

    def send_signal(self, number: int) -> None:
        for process in self.running:
            self._processes[process].send_signal(number)

    def kill(self, *, only_stopped: bool = False) -> None:
        options = os.WSTOPPED | os.WNOHANG | os.WNOWAIT  # does not wait
        for number in self.running:
            process = self._processes[number]
            if not only_stopped or os.waitid(os.P_PID, process.pid, options) is not None:
                process.kill()
                self.killed.add(number)

    def wait(self, is_stopping: Callable[[], bool]) -> None:
        """Waits until all have ended; after a failure kills all that remain.

        If all were told to end (`is_stopping`), an exit code other than 0 is not a failure.
        """
        kill_at = math.inf
        while self.running:
            time.sleep(_POLL_SECS)
            for number in self.running:
                code = self._processes[number].poll()
                if code is not None:
                    self.codes[number] = code
                    if code and not is_stopping():
                        kill_at = min(kill_at, time.monotonic() + self._grace_secs)
            if kill_at < math.inf:
                self.kill(only_stopped=time.monotonic() < kill_at)
        limit = time.monotonic() + _LAST_SECS
        for reader in self._readers:
            reader.join(max(0.0, limit - time.monotonic()))

    def close(self) -> None:
        self.kill()
        for process in self._processes:
            process.wait()


def _start_thread(work: Callable[..., object], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def _forward(source: int, target: IO[bytes]) -> None:
    with contextlib.suppress(OSError), target:
        while content := os.read(source, _CHUNK_BYTES):
            target.write(content)
            target.flush()


class Output:
    """Lines of process 1 start with "[1]"; equal errors and warnings are printed once.

    In a conversation, process 0 asks questions that end no line.
    """

    def __init__(self, stream: TextIO, *, is_conversation: bool = False) -> None:
        self.has_error = False
        self._is_conversation = is_conversation
        self._stream = stream
        self._messages: set[bytes] = set()
        self._lock = threading.Lock()

    def forward(self, process: int, stream: IO[bytes]) -> None:
        """Prints what a process writes, until it closes the stream."""
        chunks: Iterable[bytes] = stream
        if process == 0 and self._is_conversation:
            chunks = iter(lambda: os.read(stream.fileno(), _CHUNK_BYTES), b"")
        with stream:
            for chunk in chunks:
                for line in _LINES.findall(chunk):
                    self._print(process, line)

    def note(self, text: str) -> None:
        self._print(0, os.fsencode(f"mtfrun: {text}\n"))

    def error(self, text: str) -> None:
        self._print(0, _ERROR + os.fsencode(f"{text}\n"))

    def forget(self) -> None:
        """Forgets printed messages, for another start."""
        self.has_error = False
        self._messages.clear()

    def _print(self, process: int, line: bytes) -> None:
        with self._lock:
            if line.startswith((_ERROR, _WARNING)):
                if line in self._messages:
                    return
                self._messages.add(line)
                self.has_error |= line.startswith(_ERROR)
            elif process:
                line = b"[%d] %s" % (process, line)
            if not (self._is_conversation or line.endswith(b"\n")):
                line += b"\n"
            self._stream.write(line.decode("utf-8", "replace"))
            self._stream.flush()


@dataclasses.dataclass(frozen=True)
class Outcome:
    """`codes` are in the order of the ends, negative for signals; `killed` by the launcher."""

    codes: Mapping[int, int]
    killed: Set[int] = frozenset()
    signal: int | None = None

    @property
    def cause(self) -> int | None:
        """The first failure by itself, or a killed process if the rest only report the loss."""
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
    """Starts a command as several processes, and again after the loss of some.

    Args:
      flags: the flags of `launch`.
      command: the words of the launched command.
      typed: the launcher's command line.
      stdin: the descriptor that process 0 reads.
    """

    def __init__(
        self,
        flags: argparse.Namespace,
        command: Sequence[str],
        output: Output,
        *,
        program: Sequence[str],
        typed: Sequence[str] = (),
        stdin: int | None = None,
    ) -> None:
        self.command, self.num_processes = list(command), flags.num_processes
        self._flags, self._output = flags, output
        self._program, self._typed, self._stdin = program, typed, stdin
        self._children: Children | None = None
        self._signal: int | None = None

    def run(self) -> int:
        """Returns the exit code: 0, or of the process that caused the end."""
        restarts = 0
        with forward_signals(self._forward):
            while (outcome := self._run_once()).cause is not None:
                if not outcome.is_transient or restarts == self._flags.max_restarts:
                    # Unless a process has printed its error.
                    if outcome.signal is None and not self._output.has_error:
                        step = self._newest_step()
                        safe = (
                            "no step is saved" if step is None else f"the last saved step is {step}"
                        )
                        self._output.error(f"{outcome.describe()}; {safe}")
                    break
                restarts += 1
                try:
                    self._prepare_restart(outcome, restarts)
                except InputError as error:
                    self._output.error(f"{outcome.describe()}; {error}")
                    break
        return outcome.code

    def _run_once(self) -> Outcome:
        self._output.forget()
        children = self._children = Children(
            self._commands(),
            self._typed,
            {TOKEN_VARIABLE: secrets.token_hex()},
            self._output,
            stdin=self._stdin,
            grace_secs=GRACE_SECS,
        )
        with contextlib.closing(children):
            if self._signal is not None:  # it came before they were there
                children.send_signal(self._signal)
            children.wait(is_stopping=lambda: self._signal is not None)
        return Outcome(children.codes, children.killed, self._signal)

    def _commands(self) -> list[list[str]]:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        shared = [f"--num_processes={self.num_processes}", f"--coordinator={address}"]
        if self._flags.devices_per_process is not None:
            shared.append(f"--devices_per_process={self._flags.devices_per_process}")
        shared.append(f"--join_secs={JOIN_SECS:g}")
        numbers = range(self.num_processes)
        return [[*self._program, f"--process_id={i}", *shared, *self.command] for i in numbers]

    def _newest_step(self) -> int | None:
        if self._flags.launched.model_dir is None:
            return None
        directory = pathlib.Path(RunDirectory(self._flags.launched.model_dir).path, CHECKPOINTS)
        return max(list_steps(directory), default=None)

    def _prepare_restart(self, outcome: Outcome, restart: int) -> None:
        step = self._newest_step()
        # --restart would begin at step 0 again.
        self.command = [word for word in self.command if word != "--restart"]
        remaining = self.num_processes - len(outcome.lost)
        plan = "starting all again"
        if self._flags.elastic and 0 < remaining < self.num_processes:
            mesh = self.shrink(remaining)
            plan = f"going on with {self.num_processes} process(es), mesh {mesh}"
        start = "from the beginning" if step is None else f"from step {step}"
        counted = f"(restart {restart} of {self._flags.max_restarts})"
        self._output.note(f"{outcome.describe()}; {plan}, {start} {counted}")

    def shrink(self, remaining: int) -> str:
        """Chooses, and returns, the largest mesh on which the remaining processes can run."""
        launched = self._flags.launched
        chosen = choose_smaller_mesh(
            launched, [*self._program, *self.command], self.num_processes, remaining
        )
        self.num_processes = chosen.num_processes
        self.command = [*self.command, chosen.flag]
        launched.bindings.append((chosen.flag, f"{chosen.name} = {chosen.shape!r}"))
        return chosen.shape

    def _forward(self, number: int) -> None:
        self._signal = self._signal or number
        if self._children is not None:
            self._children.send_signal(number)
