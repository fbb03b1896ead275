"""Which process a command is: its flags, SLURM's variables, and the command line of launch."""

from __future__ import annotations

import argparse

import pytest

from mtfrun import processes
from mtfrun.cli import process_flags
from mtfrun.cli.commands import launch
from mtfrun.cli.launcher import Launcher
from mtfrun.cli.parser import parse_flags
from mtfrun.cli.process_flags import add_process_flags, check_processes
from mtfrun.errors import InputError
from mtfrun.processes import private_network

TWO = ["--num_processes=2", "--process_id=0", "--coordinator=a:1"]
RUN = ["train", "--gin_file=runs/quickstart.gin", "--model_dir=/tmp/x"]
LAUNCH = ["launch", "-n", "2", "--", *RUN]
STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NODELIST": "gpu[07-08,11]-ib",
}


def _processes(*arguments: str, environment: dict[str, str] | None = None) -> tuple[object, ...]:
    parser = argparse.ArgumentParser()
    add_process_flags(parser)
    flags = parser.parse_args(arguments)
    check_processes(flags, environment or {})
    return flags.num_processes, flags.process_id, flags.coordinator


NO_STEP = {name: value for name, value in STEP.items() if not name.startswith("SLURM_STEP")}


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, (1, 0, None)),
        (["--num_processes=1"], {}, (1, 0, None)),
        ([], STEP, (8, 5, "gpu07-ib:24629")),
        # Other steps of a job have other ports.
        ([], {**STEP, "SLURM_STEP_ID": "3"}, (8, 5, "gpu07-ib:24660")),
        (["--num_processes=1"], STEP, (1, 0, None)),
        ([], NO_STEP, (1, 0, None)),  # a batch script
        ([], {**STEP, "SLURM_STEP_NUM_TASKS": "1"}, (1, 0, None)),
    ],
)
def test_flags_come_before_slurm_and_a_process_alone_is_the_default(
    arguments: list[str], environment: dict[str, str], expected: tuple[object, ...]
) -> None:
    assert _processes(*arguments, environment=environment) == expected


def test_several_processes_need_a_network_that_is_trusted_or_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined = []
    monkeypatch.setattr(processes, "join", lambda *args, **_: joined.append(args))
    with (
        pytest.raises(InputError, match="whoever reaches their ports can run code as you"),
        process_flags.join_processes(parse_flags([*RUN, *TWO])),
    ):
        pass
    assert not joined
    with process_flags.join_processes(parse_flags([*RUN, *TWO, "--trusted_network"])):
        assert len(joined) == 1
    monkeypatch.setattr(private_network, "is_private", lambda: True)
    with process_flags.join_processes(parse_flags([*RUN, *TWO])):
        assert len(joined) == 2


def test_launch_is_refused_where_there_is_no_private_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbid() -> None:
        raise InputError("forbidden")

    arguments = [*LAUNCH, "--gin.MESH_SHAPE='data:2'"]
    commands: list[list[str]] = []
    monkeypatch.setattr(private_network, "enter", forbid)

    def note_command(self: Launcher) -> int:
        commands.append(self.command)
        return 0

    monkeypatch.setattr(Launcher, "run", note_command)
    with pytest.raises(InputError, match="forbidden"):
        launch.run(parse_flags(arguments), arguments)
    before = ["launch", "--trusted_network", *arguments[1:]]
    for trusted in (before, [*arguments, "--trusted_network"]):
        assert launch.run(parse_flags(trusted), trusted) == 0
    assert [command.count("--trusted_network") for command in commands] == [1, 1]


@pytest.mark.parametrize("value", [None, "", "x"])
@pytest.mark.parametrize("name", sorted(STEP))
def test_a_variable_of_slurm_that_is_missing_or_not_a_number_is_named(
    name: str, value: str | None
) -> None:
    environment = {**STEP, name: value or ""}
    if value is None:
        del environment[name]
    if value is None and name in ("SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS"):  # not in a step
        _processes(environment=environment)
    elif value in (None, "") or name != "SLURM_STEP_NODELIST":
        with pytest.raises(InputError, match=f"SLURM's variable {name} is "):
            _processes(environment=environment)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_processes=2", "--process_id=0"], "--coordinator is missing"),
        (["--process_id=1"], "--num_processes is missing"),
        (["--num_processes=2", "--process_id=2", "--coordinator=a:1"], "is not one of --num"),
        (["--num_processes=2", "--process_id=0", "--coordinator=a"], "is not a host:port"),
        (["--num_processes=2", "--process_id=0", "--coordinator=a:99999"], "is not a host:port"),
        (["--devices_per_process=0"], "must be at least 1"),
        (["--join_secs=0"], "must be in 0 to"),
    ],
)
def test_unusable_flags_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_flags([*RUN, *flags])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["launch"], "launch needs a command"),
        (["launch", "-n", "2", *RUN], "launch: write -- before train"),
        (["launch", "-n", "2", "--gin.A=1", "--", *RUN], "flags of the command follow it"),
        (["launch", "--", *RUN], "launch needs the number of processes"),
        (["launch", "-n", "0", "--", *RUN], "must be at least 1"),
        (["launch", "-n", "2", "--", "data", "cache", "--gin_file=a"], "not data cache"),
        (["launch", "-n", "2", "--", "train"], "train needs a configuration"),
        (["launch", "-n", "2", "--max_restarts=1", "--", "eval", "--model_dir=x"], "is for train"),
        (["launch", "-n", "2", "--elastic", "--", *RUN], "give --max_restarts=N as well"),
        ([*LAUNCH, "--dry_run"], "in one process: leave launch out"),
        (
            [*LAUNCH, "--num_processes=2", "--process_id=0", "--coordinator=a:1"],
            "launch itself gives",
        ),
    ],
)
def test_an_unusable_launch_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_flags(arguments)


def test_flags_after_the_dashes_are_those_of_the_command() -> None:
    flags = parse_flags([*LAUNCH, "--gin.A=1"])
    assert (flags.command, flags.num_processes, flags.bindings) == ("launch", 2, [])
    assert flags.launched.command == "train"
    assert flags.launched.bindings == [("--gin.A=1", "A = 1")]
