"""Children that a server forks: exit codes, output, signals, the end of their parent."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.reach import ROOT

# Prints that it waits, and waits for a signal.
WAITING = """
import signal, sys, time
def main(arguments):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("waits", *arguments, flush=True)
    time.sleep(300)
"""
# A signal to the whole group of processes, as systemd and pkill send it, reaches the server too.
PARENT = """
import multiprocessing.forkserver, os, pathlib, sys, time
import waiting_main
from mtfrun.extras.sweeps.forked_child import ForkedChild, Server
server = Server(["waiting_main"], waiting_main.main, [sys.executable, "-m", "mtfrun"])
child = ForkedChild(server, ["for it"], ["mtfrun"], pathlib.Path(sys.argv[1]))
print(child.pid, flush=True)
if sys.argv[2] == "waits":
    time.sleep(300)
while "waits" not in pathlib.Path(sys.argv[1]).read_text():
    time.sleep(0.01)
os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, 15)
child.send_signal(15)
while (code := child.poll()) is None:
    time.sleep(0.01)
print(code)
"""


def _start(directory: pathlib.Path, word: str) -> subprocess.Popen[str]:
    (directory / "waiting_main.py").write_text(WAITING)
    (directory / "log").touch()
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory / "log"), word],
        env={**os.environ, "PYTHONPATH": f"{directory}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_child_prints_into_its_file_and_returns_an_exit_code_after_a_signal_to_all(
    tmp_path: pathlib.Path,
) -> None:
    with _start(tmp_path, "signals") as parent:
        output, _ = parent.communicate(timeout=60)
    assert output.split()[1:] == ["143"]
    assert (tmp_path / "log").read_text() == "waits for it\n"


def test_a_child_ends_with_a_parent_that_is_killed(tmp_path: pathlib.Path) -> None:
    with _start(tmp_path, "waits") as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while "waits" not in (tmp_path / "log").read_text():
            time.sleep(0.01)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 60
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(pid, 0)
                time.sleep(0.01)
