"""A training on a terminal: what is printed at once, the header, bars, colours and Ctrl-C."""

from __future__ import annotations

import fcntl
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.command import ROOT, environment, tiny_experiment
from tests.display.terminals import without_colours

LONGEST_SECS = 240.0


class Shell:
    """A process whose terminal is a pseudo-terminal.

    Attributes:
      written: what it has written.
    """

    def __init__(self, command: list[str], columns: int, **variables: str) -> None:
        self._own, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.written = b""
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), "TERM": "xterm", **variables},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for(self, pattern: str) -> None:
        """Waits until a pattern was written."""
        while not re.search(pattern, self.text):
            assert self._thread.is_alive(), f"no {pattern} in {self.text}"
            assert time.monotonic() - self.start < LONGEST_SECS, f"no {pattern} in {self.text}"
            time.sleep(0.02)

    def press(self, keys: bytes) -> None:
        """Types keys."""
        os.write(self._own, keys)

    def finish(self) -> int:
        """Returns the exit code of the process."""
        code = self.process.wait(timeout=LONGEST_SECS)
        self._thread.join()
        os.close(self._own)
        return code

    @property
    def text(self) -> str:
        """What it has written."""
        return self.written.decode("utf-8", "replace").replace("\r\n", "\n")

    def lines(self) -> list[str]:
        """Returns the lines that remain on the screen, without colours."""
        # What stands before a carriage return was written over.
        shown = (line.split("\r")[-1] for line in without_colours(self.text).split("\n"))
        return [line.rstrip() for line in shown if line.strip()]

    def _read(self) -> None:
        try:
            while content := os.read(self._own, 1 << 16):
                self.written += content
        except OSError:  # EIO: the process has ended
            pass


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A training that Ctrl-C has ended."""
    folder = tmp_path_factory.mktemp("terminal")
    flags = [*tiny_experiment(folder), "--gin.TRAIN_STEPS=100000", "--gin.ITERATIONS_PER_LOOP=100"]
    command = [sys.executable, "-m", "mtfrun", "train", *flags, f"--model_dir={folder}/run"]
    shell = Shell(command, columns=80)
    try:
        shell.wait_for(r"training .*\|")
        shell.press(b"\x03")
        assert shell.finish() == 130, shell.text
        yield shell
    finally:
        shell.process.kill()
        shell.process.wait()


@pytest.mark.slow
def test_the_import_of_tensorflow_is_said_before_it_begins(interrupted: Shell) -> None:
    first = without_colours(interrupted.text).lstrip("\r")
    assert re.match(r"mtfrun [\d.]+: starting TensorFlow \.\.\. 0:00", first)
    assert "compiling the training step ... 0:00" in first


@pytest.mark.slow
def test_bars_and_waiting_lines_fit_and_leave_nothing(interrupted: Shell) -> None:
    bars = re.findall(r"[^\r\n]*\|[^\r\n]*", without_colours(interrupted.text))
    assert bars and all(len(bar.rstrip(" ^C")) <= 76 for bar in bars)
    assert not [line for line in interrupted.lines() if "|" in line or "..." in line]


@pytest.mark.slow
def test_labels_are_bold(interrupted: Shell) -> None:
    assert "\x1b[1mdevices     \x1b[0mCPU:0, " in interrupted.text


@pytest.mark.slow
def test_the_lines_are_those_of_the_recorded_session(interrupted: Shell) -> None:
    recording = (ROOT / "docs/terminal/interrupt-80.txt").read_text()
    _, *recorded = recorder().stable_lines(recording)
    recorded = recorded[: next(i for i, line in enumerate(recorded) if line.startswith("$"))]
    lines = recorder().stable_lines("\n".join(interrupted.lines()))
    # The values after the labels of the header are those of another run.
    assert [_label(line) for line in lines] == [_label(line) for line in recorded]
    assert len(lines) == 12
    assert lines[-2] == "mtfrun: finishing step # saving; again to stop now"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "columns"), [("interrupt", 150), ("evaluation", 80)])
def test_a_recorded_session_is_repeated(name: str, columns: int) -> None:
    assert_repeated(name, columns)


def assert_repeated(name: str, columns: int) -> None:
    """It needs tmux."""
    recording = (ROOT / f"docs/terminal/{name}-{columns}.txt").read_text()
    again = recorder().record(recorder().SESSIONS[name], columns)
    assert recorder().stable_lines(again) == recorder().stable_lines(recording)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_an_error_is_red_where_colours_are_wanted(variables: dict[str, str]) -> None:
    command = [sys.executable, "-m", "mtfrun", "trian"]
    for changed, error in (({}, "\x1b[31mmtfrun: error:\x1b[0m"), (variables, "mtfrun: error:")):
        shell = Shell(command, 80, **{"NO_COLOR": "", **changed})
        assert shell.finish() == 2
        assert shell.text.startswith(f"{error} no command 'trian'"), shell.text


def _label(line: str) -> str:
    """Returns a line without what follows the label of a line of the header."""
    return re.sub(r"^(\w+)  +.*", r"\1", line)


def recorder() -> Any:
    """Returns the module bin/record_terminal."""
    name = "record_terminal"
    if name not in sys.modules:
        path = str(pathlib.Path(ROOT, "bin", name))
        loader = importlib.machinery.SourceFileLoader(name, path)
        spec = importlib.util.spec_from_loader(name, loader)
        assert spec is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        loader.exec_module(sys.modules[name])
    return sys.modules[name]
