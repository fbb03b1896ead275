"""Texts of data and of untrusted files print no control characters on the terminal."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from mtfrun.display.streams import unfailing
from mtfrun.display.table import table_lines
from mtfrun.errors.untrusted import visible
from mtfrun.rundir import RunDirectory, Status
from tests.cli.command import ROOT, environment, mtfrun, mtfrun_here

ATTACK = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r\nmtfrun: error: forged"


def _shown(process: subprocess.CompletedProcess[bytes]) -> str:
    """Returns the output of a process, without control characters and forged lines."""
    text = (process.stdout + process.stderr).decode()
    assert visible(text) == text
    assert not any(line.startswith("mtfrun: error: forged") for line in text.splitlines())
    return text


def test_names_and_records_of_runs_are_escaped(tmp_path: pathlib.Path) -> None:
    for number in range(2):
        name = f"{number}{ATTACK}"
        run = RunDirectory(tmp_path / name)
        run.prepare()
        run.write_config(f"X = {number}\nNAME = '\x1b[31m{number}'\n")
        values = {f"loss{ATTACK}": 1.0}
        run.record().write_status(Status("failed", 1, 2, values, 3.0, ATTACK, ATTACK))
        run.record().write_metrics({1: {f"eval/{ATTACK}": 1.0}})
    text = _shown(mtfrun_here("runs", str(tmp_path)))
    assert "forged" in text and text.count("failed") == 4
    assert json.loads(mtfrun_here("runs", str(tmp_path), "--json").stdout)
    _shown(mtfrun_here("runs", str(tmp_path / f"0{ATTACK}" / "none")))


def test_cells_of_tables_are_one_line() -> None:
    assert table_lines(["a", "b"], [[ATTACK, "1"]], None)[1].isprintable()


def test_escaped_json_has_the_same_value() -> None:
    value = "\x1b[2J \x85 \u202e \U0001f600 \u00e9"
    line = json.dumps(value, ensure_ascii=False)
    assert json.loads(visible(line)) == json.loads(visible(line, "ascii")) == value
    assert visible(line, "ascii").isascii()


def test_a_terminal_gets_only_the_controls_of_bars_and_colours() -> None:
    class Terminal:
        written = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> None:
            self.written += text

    terminal = Terminal()
    stream = unfailing(terminal)  # type: ignore[arg-type]
    for text in ("\r\x1b[2mbar\x1b[0m", "\n\n\x1b[A\x1b[A", "a\x1b[2Jb\rc\n"):
        stream.write(text)
    assert terminal.written == "\r\x1b[2mbar\x1b[0m\n\n\x1b[A\x1b[Aa\\u001b[2Jb\\u000dc\n"


def test_an_ascii_output_causes_no_traceback(tmp_path: pathlib.Path) -> None:
    (tmp_path / "caf\u00e9").mkdir()
    RunDirectory(tmp_path / "caf\u00e9").record().write_status(Status("failed", 1, 2))
    process = subprocess.run(
        [sys.executable, "-m", "mtfrun", "runs", str(tmp_path)],
        capture_output=True,
        cwd=ROOT,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
        timeout=100,
    )
    assert process.returncode == 0 and b"caf\\u00e9" in process.stdout


@pytest.mark.slow
def test_ctrl_c_before_the_program_is_imported_causes_no_traceback() -> None:
    for tenths in range(12):
        process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", "mtfrun", "--help"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=environment(),
        )
        assert process.stderr is not None
        for line in process.stderr:  # until the program's modules are imported
            if line.endswith(b" argparse\n"):
                break
        time.sleep(tenths / 100)
        os.kill(process.pid, signal.SIGINT)
        assert b"Traceback" not in process.communicate()[1]
        # Negative: the signal came when the program had ended, before the process.
        assert process.returncode in (128 + signal.SIGINT, 0, -signal.SIGINT)


def test_notes_of_an_import_and_names_of_files_are_escaped(tmp_path: pathlib.Path) -> None:
    process = mtfrun("config", "show", f"--gin_file={tmp_path}/{ATTACK}.gin")
    assert process.returncode == 2
    _shown(process)
