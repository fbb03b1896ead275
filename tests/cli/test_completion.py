"""Completion of command lines, by the program and by the shells."""

from __future__ import annotations

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
from argcomplete.shell_integration import shellcode

from mtfrun.cli.parser import all_commands
from tests.cli.command import ROOT, mtfrun_here

# A program that prints one candidate a line for "LINE", after the script was read.
_BASH = """
{script}
COMP_LINE={line} COMP_POINT=${{#COMP_LINE}} COMP_TYPE=9
COMP_WORDBREAKS=$' \\t\\n"=:'
compopt() {{ :; }}
_python_argcomplete mtfrun "" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def _candidates(line: str) -> list[str]:
    """Returns what the program answers to a shell."""
    environment = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_SHELL": "fish",
        "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line.encode())),
        "COMP_TYPE": "",
    }
    process = subprocess.run(
        ["bash", "-c", f"exec 8>&1 9>&2; {shlex.quote(sys.executable)} -m mtfrun"],
        env=environment,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return process.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mtfrun data ca", ["cache"]),
        ("mtfrun train --gin_file=runs/quick", ["--gin_file=runs/quickstart.gin"]),
        ("mtfrun train --gin_file=gin/lay", ["--gin_file=gin/layouts/"]),
        ("mtfrun launch -n 2 -- train --resta", ["--restart"]),
        ("mtfrun decode --prompt='a b' --interac", ["--interactive"]),
    ],
)
def test_the_last_word_is_completed(line: str, expected: list[str]) -> None:
    assert _candidates(line) == expected


def test_the_scripts_are_printed() -> None:
    for shell in ("bash", "zsh", "fish"):
        script = shellcode(["mtfrun"], shell=shell)
        assert mtfrun_here("--completion", shell).stdout.decode() == f"{script}\n"


def test_commands_and_flags_are_offered() -> None:
    assert {name.partition(" ")[0] for name in all_commands()} <= set(_candidates("mtfrun "))
    assert _candidates("mtfrun checkpoints prune --de") == ["--debug"]


def test_bash_completes(tmp_path: pathlib.Path) -> None:
    mtfrun = tmp_path / "mtfrun"
    mtfrun.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mtfrun "$@"\n')
    mtfrun.chmod(0o755)
    line = shlex.quote("mtfrun train --gin_file=runs/quickst")
    process = subprocess.run(
        ["bash", "-c", _BASH.format(line=line, script=shellcode(["mtfrun"], shell="bash"))],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.stdout.split() == ["runs/quickstart.gin"], process.stderr
