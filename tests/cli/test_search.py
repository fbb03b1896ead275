"""`mtfrun plan --search`: the ranking, and lines of gin that can be used."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.planning import shipped_profiles
from tests.cli.command import TINY, mtfrun, mtfrun_here

SEARCH = ["plan", "--search", "--devices=8", "--gin_file=runs/quickstart.gin", *TINY]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "--profile=t4"], "needs a number of devices"),
        (["--search", "--devices=1", "--profile=t4"], "needs a number of devices"),
        (["--search", "--devices=8"], "needs a file for the devices"),
        (["--search", "--calibrate"], "one after the other"),
        (["--calibrate", "--devices=8"], "needs a file for the devices"),
        (["--devices=8"], "--devices is for plan --search or --calibrate"),
        (["--search", "--devices=8", "--profile=t4", "--mesh=data:8"], "--mesh describes one mesh"),
        (["--search", "--devices=8", "--profile=t4", "--candidates=0"], "must be at least 1"),
    ],
)
def test_flags_that_do_not_fit_are_one_line(arguments: list[str], message: str) -> None:
    result = mtfrun_here("plan", "--gin_file=runs/quickstart.gin", *arguments)
    assert result.returncode == 2
    error = result.stderr.decode()
    assert message in error
    assert error.count("\n") == 1


def test_a_profile_that_does_not_exist_says_how_to_measure_one() -> None:
    result = mtfrun_here(*SEARCH, "--profile=missing.json")
    assert result.returncode == 2
    assert b"mtfrun plan --calibrate --devices=8 --profile=missing.json" in result.stderr


def test_a_profile_of_another_number_of_devices_is_refused(tmp_path: pathlib.Path) -> None:
    fields = json.loads(shipped_profiles()["t4"].to_json()) | {"devices": 4}
    profile = tmp_path / "devices.json"
    profile.write_text(json.dumps(fields))
    result = mtfrun_here(*SEARCH, f"--profile={profile}")
    assert result.returncode == 2
    assert b"measured with 4 devices, not with 8" in result.stderr


def test_the_ranking_is_gin_that_can_be_pasted(tmp_path: pathlib.Path) -> None:
    result = mtfrun(*SEARCH, "--profile=t4", "--candidates=2", "--json")
    assert result.returncode == 0, result.stderr.decode()
    ranking = json.loads(result.stdout)["ranking"]
    secs = [option["step_secs"] for option in ranking]
    assert secs == sorted(secs)
    assert len(secs) == 2
    assert len({(option["mesh"], option["layout"]) for option in ranking}) == 2
    pasted = tmp_path / "best.gin"
    pasted.write_text("\n".join(ranking[0]["gin"]))
    plan = mtfrun("plan", "--json", *SEARCH[3:], f"--gin_file={pasted}")
    assert plan.returncode == 0, plan.stderr.decode()
    assert ranking[0]["mesh"] in plan.stdout.decode().replace(";", ",")
