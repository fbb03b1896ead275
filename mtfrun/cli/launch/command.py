"""The command launch."""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import sys
from collections.abc import Sequence

from mtfrun.cli.launch.launcher import Launch, Launcher, Program
from mtfrun.cli.launch.output import Output
from mtfrun.processes import private_network


def launch(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Runs the command after "--" as several processes and returns the exit code."""
    words = _command_of(flags.launched.command, command)
    program = Program(
        python=_python(),
        arguments=["-m", "mtfrun"],
        command=[*words, *["--trusted_network"] * flags.trusted_network],
        model_dir=flags.launched.model_dir,
        stdin=_standard_input() if _reads_input(flags.launched) else None,
        typed=command,
    )
    plan = Launch(
        program,
        flags.num_processes,
        devices_per_process=flags.devices_per_process,
        max_restarts=flags.max_restarts,
        is_elastic=flags.elastic,
    )
    is_trusted = flags.trusted_network or flags.launched.trusted_network
    if flags.num_processes > 1 and not is_trusted and not private_network.is_private():
        private_network.enter()
    is_conversation = getattr(flags.launched, "interactive", False)
    return Launcher(plan, Output(sys.stderr, is_conversation=is_conversation)).run()


def _command_of(name: str, typed: Sequence[str]) -> list[str]:
    """Returns what follows "--", the name of the command first."""
    arguments = list(typed[typed.index("--") + 1 :])
    arguments.remove(name)
    return [name, *arguments]


def _python() -> list[str]:
    """Returns what starts Python with the same path for modules.

    `python -m` prepends the working directory, the script `mtfrun` does not.
    """
    is_first = sys.path[:1] in ([""], [str(pathlib.Path.cwd())])
    return [sys.executable] if is_first else [sys.executable, "-P"]


def _reads_input(launched: argparse.Namespace) -> bool:
    return getattr(launched, "input", None) == "-" or getattr(launched, "interactive", False)


def _standard_input() -> int | None:
    with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or none
        return sys.stdin.fileno()
    return None
