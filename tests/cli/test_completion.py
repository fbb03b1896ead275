"""Completion of command lines, by the program and by the shells."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest

from mtfrun.cli.completion import candidates
from mtfrun.cli.flags.parse import command_parsers
from mtfrun.cli.flags.shells import SHELLS
from tests.cli.command import ROOT, mtfrun_here

# A shell's program that prints one candidate a line for "LINE", after its script was read.
_BASH = """
COMP_LINE={line} COMP_POINT=${{#COMP_LINE}}
COMP_WORDBREAKS=$' \\t\\n"=:'
compopt() {{ :; }}
_mtfrun mtfrun "" ""
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
_ZSH = """
compdef() {{ :; }}
compadd() {{ for x in "${{(@P)${{@[-1]}}}}"; do print -r -- "$x"; done }}
{script}
LBUFFER={line} words=(mtfrun)
_mtfrun
"""
_FISH = "{script}\ncomplete -C {line}\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mtfrun tr", ["train"]),
        ("mtfrun data s", ["show", "stats"]),
        ("mtfrun vocab train --si", ["--size="]),
        ("mtfrun train --dry", ["--dry_run"]),
        ("mtfrun train --gin_file=runs/quick", ["--gin_file=runs/quickstart.gin"]),
        ("mtfrun train --gin_file=gin/runs/quick", ["--gin_file=gin/runs/quickstart.gin"]),
        ("mtfrun train --gin_file=gin/lay", ["--gin_file=gin/layouts/"]),
        ("mtfrun decode --format=t", ["--format=text"]),
        ("mtfrun completion z", ["zsh"]),
        ("mtfrun launch -n 2 -- train --resta", ["--restart"]),
        ("mtfrun decode --prompt='a b' --interac", ["--interactive"]),
        ("mtfrun nonsense ", []),
        ("mtfrun decode --prompt='open", []),
    ],
)
def test_the_last_word_is_completed(
    line: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert candidates(line, command_parsers()) == expected


def test_every_command_and_its_flags_are_offered() -> None:
    parsers = command_parsers()
    for name in parsers:
        if not any(other.startswith(f"{name} ") for other in parsers):
            *first, last = name.split()
            assert last in candidates(" ".join(["mtfrun", *first, last]), parsers)
            assert "--debug" in candidates(f"mtfrun {name} --d", parsers)


def test_the_scripts_are_printed() -> None:
    for shell, script in SHELLS.items():
        assert mtfrun_here("completion", shell).stdout.decode() == script


@pytest.mark.parametrize(
    ("shell", "program"),
    [
        ("bash", _BASH),
        pytest.param("zsh", _ZSH, marks=pytest.mark.slow),
        pytest.param("fish", _FISH, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mtfrun data sh", "show"),
        ("mtfrun train --gin_file=runs/quickst", "--gin_file=runs/quickstart.gin"),
    ],
)
def test_shells_complete(
    shell: str, program: str, line: str, expected: str, tmp_path: pathlib.Path
) -> None:
    """The slow set needs zsh and fish."""
    assert shutil.which(shell), f"{shell} is not installed"
    mtfrun = tmp_path / "mtfrun"
    mtfrun.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mtfrun "$@"\n')
    mtfrun.chmod(0o755)
    script = program.format(line=shlex.quote(line), script=SHELLS[shell])
    if shell == "bash":
        script = SHELLS[shell] + script
        expected = expected.partition("=")[2] or expected
    process = subprocess.run(
        [shell, "-c", script],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.stdout.split() == [expected], process.stderr
