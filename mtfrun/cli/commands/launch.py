from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence

from mtfrun import processes
from mtfrun.cli import command as cli
from mtfrun.cli.process_flags import has_urls
from mtfrun.errors import InputError
from mtfrun.processes import private_network
from mtfrun.processes.child_process import python_command

_DESCRIPTION = """\
Runs a command as several processes on this machine, each with a part of the mesh's devices.

  mtfrun launch -n 2 -- train --gin_file=runs/quickstart.gin --gin_file=layouts/2x2.gin \\
      --model_dir=/tmp/run
  mtfrun launch -n 2 --max_restarts=3 -- train --gin_file=... --model_dir=/tmp/run
  mtfrun launch -n 4 --max_restarts=3 --elastic -- train --gin_file=... --model_dir=/tmp/run
  mtfrun launch -n 2 -- eval --model_dir=/tmp/run

The command is one of the list below. Its results and its files are the same as of one process; a
checkpoint can be restored by any number of processes. What process 0 prints is shown as it is, what
another one prints on standard error begins with its number, as in "[1] ...".

If a process dies, stops, fails or never starts, all end within 30 seconds, with one line that names
it and the last saved step, and with its exit code (128 + number for a signal). With
--max_restarts=N all are started again, up to N times, and resume there, unless bad input (exit code
2) or numbers that are not finite (3) have ended the run. With --elastic the run continues without
the processes that were lost, on a smaller mesh, with the same batch and the same losses.

SIGTERM, Ctrl-C and SIGHUP are forwarded to all processes: all stop at the same step and save.

The processes run in a private network namespace, since anyone who can reach TensorFlow's servers
can run code as you; --trusted_network leaves them in the network of the machine. On several
machines start each process yourself, or let SLURM or Kubernetes do it: see docs/processes.md."""


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--num_processes", type=cli.at_least(1), help="how many processes")
    text = "the devices of each; the mesh has N times as many; by default an equal part of it"
    add("--devices_per_process", type=cli.at_least(1), help=text)
    text = "how often a training starts again after a process was lost; 0 by default"
    add("--max_restarts", type=cli.at_least(0), default=0, help=text)
    text = "let the processes listen on all addresses of this machine, see docs/processes.md"
    add("--trusted_network", action="store_true", help=text)
    text = "start again without the processes that were lost, on a smaller mesh"
    add("--elastic", action="store_true", help=text)


def _check(flags: argparse.Namespace) -> None:
    if flags.gin_file or flags.bindings or flags.model_dir is not None:
        raise InputError("launch: flags of the command follow it: mtfrun launch -n 2 -- train ...")
    if flags.launched is None:
        raise InputError("launch needs a command: mtfrun launch -n 2 -- train ...")
    launched = flags.launched
    if flags.num_processes is None:
        raise InputError("launch needs the number of processes: mtfrun launch -n 2 -- ...")
    if flags.max_restarts and launched.command != "train":
        raise InputError("--max_restarts is for train, which resumes from a checkpoint")
    if flags.elastic and not flags.max_restarts:
        raise InputError("--elastic says how to start again: give --max_restarts=N as well")
    if launched.command == "train" and launched.dry_run:
        raise InputError("--dry_run builds a run of any mesh in one process: leave launch out")
    if has_urls(launched) and _needs_private_network(flags):
        raise InputError(
            f"--model_dir={launched.model_dir} needs the network of this machine, which the "
            "processes leave: give --trusted_network if you trust all who reach it"
        )
    if launched.num_processes > 1 or launched.coordinator is not None:
        raise InputError("launch itself gives --num_processes, --process_id and --coordinator")


def run(flags: argparse.Namespace, command: Sequence[str]) -> int:
    from mtfrun.cli.launcher import Launcher, Output
    from mtfrun.cli.smaller_mesh import mesh_of

    launched = flags.launched
    if launched.gin_file:
        _, sizes, _ = mesh_of(launched)
        if sizes:
            processes.check_division(sizes, flags.num_processes)
    is_conversation, stdin = getattr(launched, "interactive", False), None
    if is_conversation or getattr(launched, "input", None) == "-":
        with contextlib.suppress(AttributeError, OSError, ValueError):  # closed or absent
            stdin = sys.stdin.fileno()
    if _needs_private_network(flags):
        private_network.enter()
    return Launcher(
        flags,
        [*["--trusted_network"] * flags.trusted_network, *command[command.index("--") + 1 :]],
        Output(sys.stderr, is_conversation=is_conversation),
        program=[*python_command(), "-m", "mtfrun"],
        typed=command,
        stdin=stdin,
    ).run()


def _needs_private_network(flags: argparse.Namespace) -> bool:
    is_trusted = flags.trusted_network or flags.launched.trusted_network
    return flags.num_processes > 1 and not is_trusted and not private_network.is_private()


COMMANDS = [
    cli.Command(
        "launch", _DESCRIPTION, run, _add_flags, _check, imports_tensorflow=False, subject="nothing"
    )
]
