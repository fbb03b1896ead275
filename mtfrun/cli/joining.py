"""This process's part in a run of several processes, from its flags."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator

from mtfrun import __version__, processes
from mtfrun.cli.launch.gpus import share_gpus
from mtfrun.errors import InputError
from mtfrun.processes import private_network


@contextlib.contextmanager
def joined(flags: argparse.Namespace) -> Iterator[None]:
    """Joins the other processes that run the command, and leaves together with them.

    Commands without these flags are run by one process.

    Raises:
      InputError: the network is neither private nor trusted.
      InputError: the first process refuses this one, or they run different commands.
      ProcessesError: not all processes have joined in time.
    """
    number: int = getattr(flags, "num_processes", 1)
    if number > 1:
        if not (flags.trusted_network or private_network.is_private()):
            raise InputError(
                "several processes listen at all addresses of this machine, and whoever reaches "
                "their ports can run code as you: give --trusted_network if you trust all who do, "
                "or use `mtfrun launch` on one machine"
            )
        processes.join(
            number,
            flags.process_id,
            flags.coordinator,
            token=os.environ.get(processes.TOKEN_VARIABLE, ""),
            timeouts=processes.Timeouts(join_secs=flags.join_secs),
            before_exit=_remove_unfinished_files,
        )
        processes.check_same("command", _common(flags))
        share_gpus()
    yield
    processes.leave()


# Flags that may differ: their content is compared later, or each process has a different value.
_MAY_DIFFER = frozenset(
    {
        "bindings",
        "coordinator",
        "debug",
        "devices_per_process",
        "gin_allow_imports",
        "gin_file",
        "gin_location_prefix",
        "gin_param",
        "gin_search_paths",
        "join_secs",
        "launched",
        "model_dir",
        "module_import",
        "output",
        "process_id",
        "profile",
        "profile_process",
        "trusted_network",
    }
)


def _common(flags: argparse.Namespace) -> dict[str, str]:
    """Returns the settings to compare between processes before the configuration is read."""
    values = {
        f"--{n}".replace("--command", "the command"): repr(v)
        for n, v in vars(flags).items()
        if n not in _MAY_DIFFER
    }
    return {"mtfrun's version": __version__, **values}


def may_follow(error: BaseException) -> bool:
    """Returns whether the loss of another process may have caused an error.

    TensorFlow's collectives raise one of TensorFlow's errors then, of several classes.
    """
    return type(error).__module__.partition(".")[0] == "tensorflow"


def _remove_unfinished_files() -> None:
    # There are none before it is imported, and importing it would take seconds.
    rundir = sys.modules.get("mtfrun.rundir")
    if rundir is not None:
        rundir.remove_outputs_in_progress()
