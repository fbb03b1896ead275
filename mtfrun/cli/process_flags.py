"""Prepares a process for a command: joins other processes, copies files at URLs."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping

from mtfrun import __version__, processes
from mtfrun.cli.command import Command, PathKind, at_least
from mtfrun.display import progress
from mtfrun.errors import InputError
from mtfrun.files import StoreError, is_url, local_copy
from mtfrun.processes import private_network
from mtfrun.processes.connection import Address
from mtfrun.processes.gpus import share_gpus
from mtfrun.processes.slurm import slurm_processes

_MOST_SECS = 1_000_000
# Kinds of paths that are read: a run, or a checkpoint of it as in /tmp/run@100.
_READ: tuple[PathKind, ...] = ("adapter", "checkpoint", "directory")
_AT_STEP = re.compile(r"(?P<run>.*)(?P<step>@[a-z0-9]+)")


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "several processes (`mtfrun launch` and SLURM's srun set these)"
    ).add_argument
    add("--num_processes", type=int, help="how many processes run this command")
    add("--process_id", type=int, help="the number of this one, from 0")
    text = "where process 0 listens: its host and a free port"
    add("--coordinator", help=text, metavar="HOST:PORT")
    text = "the devices of the mesh that each process has; by default an equal part"
    add("--devices_per_process", type=at_least(1), help=text)
    add(
        "--trusted_network",
        action="store_true",
        help="allow several processes to listen on all addresses: anyone who can reach this "
        "machine can run code as you",
    )
    text = "how long to wait for the other processes to start; 300 by default"
    add("--join_secs", type=float, default=300.0, help=text, metavar="SECS")


def check_processes(flags: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> None:
    """Sets the flags of several processes; the default is a SLURM step of several tasks, if any."""
    names = ("num_processes", "process_id", "coordinator")
    values = [getattr(flags, name) for name in names]
    if values in ([None] * 3, [1, None, None]):
        values = (None if values[0] else slurm_processes(environment)) or [1, 0, None]
    if None in values and values[0] != 1:
        missing = names[values.index(None)]
        raise InputError(
            "several processes need --num_processes, --process_id and --coordinator: "
            f"--{missing} is missing (`mtfrun launch -n N -- ...` gives all three)"
        )
    flags.num_processes, flags.process_id, flags.coordinator = values
    if flags.num_processes < 1 or flags.process_id not in range(flags.num_processes):
        count = f"--num_processes={flags.num_processes}"
        raise InputError(f"--process_id={flags.process_id} is not one of {count}, from 0")
    if flags.coordinator is not None:
        Address.parse(flags.coordinator)
    if not 0 < flags.join_secs <= _MOST_SECS:
        raise InputError(f"--join_secs={flags.join_secs:g} must be in 0 to {_MOST_SECS}")


@contextlib.contextmanager
def join_processes(flags: argparse.Namespace) -> Iterator[None]:
    """Leaves together with the other processes. A command without these flags runs alone."""
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
        shared = vars(flags).keys() - _MAY_DIFFER.split()
        values = {f"--{name}": repr(getattr(flags, name)) for name in shared - {"command"}}
        about = {"mtfrun's version": __version__, "the command": flags.command}
        processes.check_same("command", {**about, **dict(sorted(values.items()))})
        share_gpus()
    yield
    processes.leave()


# Flags that may differ: their content is compared later, or each process has a different value.
_MAY_DIFFER = """
bindings coordinator debug devices_per_process gin_allow_imports gin_file gin_location_prefix
gin_param gin_search_paths join_secs launched model_dir module_import output process_id profile
profile_process trusted_network
"""


def _remove_unfinished_files() -> None:
    # Without its import there are no such files, and importing it would take seconds.
    if rundir := sys.modules.get("mtfrun.rundir"):
        rundir.remove_outputs_in_progress()


def has_urls(flags: argparse.Namespace) -> bool:
    values = [getattr(flags, name, None) for name in ("model_dir", "input", *_read_names(flags))]
    return any(map(is_url, [*values, *getattr(flags, "words", ())]))


def _read_names(flags: argparse.Namespace) -> list[str]:
    return [name for _, name, kind in flags.paths if kind in _READ]


def replace_url(flags: argparse.Namespace) -> None:
    """Replaces the URL of a run by the local directory that other processes will open."""
    from mtfrun.checkpoints.mirror import registry  # noqa: PLC0415 - URLs are rare

    if is_url(flags.model_dir):
        flags.model_dir = registry.local_path(flags.model_dir)


@contextlib.contextmanager
def local_directories(flags: argparse.Namespace, command: Command) -> Iterator[None]:
    """Replaces URLs of runs in the flags by local directories, which are their mirrors inside.

    Several processes share the local directory; the first opens the mirrors.
    """
    if not has_urls(flags):
        yield
        return
    from mtfrun.checkpoints.mirror import registry  # noqa: PLC0415 - URLs are rare

    urls: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def open_mirror(url: str, *, writes: bool = False) -> str:
            path = registry.local_path(url)
            urls[path] = url

            def enter() -> None:
                if writes:
                    # --restart moves the files of old checkpoints.
                    is_restarted = getattr(flags, "restart", False)
                    stack.enter_context(registry.writing(url, downloads_all=is_restarted))
                    progress.note(f"mtfrun: {url} is {path} on this machine")
                else:
                    follows = getattr(flags, "continuous", False)
                    stack.enter_context(registry.reading(url, follows=follows))

            processes.by_first(enter, "mirror of a run")
            return path

        if is_url(flags.model_dir):
            if not command.takes_url:
                what = f"--model_dir={flags.model_dir}"
                raise InputError(f"{what}: {command.name} needs a local directory")
            writes = command.writes_run and not getattr(flags, "dry_run", False)
            flags.model_dir = open_mirror(flags.model_dir, writes=writes)
        for name in _read_names(flags):
            value = getattr(flags, name)
            if is_url(value):
                match = _AT_STEP.fullmatch(value)
                url, step = (match["run"], match["step"]) if match else (value, "")
                setattr(flags, name, open_mirror(url) + step)
        if is_url(getattr(flags, "input", None)):
            flags.input = str(local_copy(flags.input))
        if command.words:
            flags.words = [open_mirror(word) if is_url(word) else word for word in flags.words]
        try:
            yield
        except StoreError:
            raise
        except InputError as error:
            # A remedy names the run as the user does.
            text = str(error)
            for path, url in urls.items():
                text = text.replace(path, url)
            error.args = (text,)
            raise
