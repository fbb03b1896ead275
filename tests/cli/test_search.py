"""`mtfrun plan --search`: the ranking, and lines of gin that can be used."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys

import pytest

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment.runs.settings import ROOTS
from mtfrun.tools.planning import shipped_profiles
from tests.cli.command import ROOT, TINY, environment, mtfrun, mtfrun_here

SEARCH = ["plan", "--search", "--devices=8", "--gin_file=runs/quickstart.gin", *TINY]
SEARCH.append("--gin.NUM_LAYERS=1")


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
    config.parse(["runs/quickstart.gin", str(pasted)], [], roots=ROOTS)
    assert config.argument(mtf.Mesh, "shape") == ranking[0]["mesh"]
    assert config.argument(mtf.Mesh, "layout") == ranking[0]["layout"]


@pytest.mark.slow
def test_after_ctrl_c_the_best_so_far_are_printed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mtfrun", *SEARCH, "--profile=t4"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
        text=True,
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.endswith("; the best so far\n"):
            process.send_signal(signal.SIGINT)
            break
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert lines[0] == "planning a step on one device\n"
    assert "stopped after " in errors and " of at most 40 candidates\n" in errors
    assert "\n1. " in output


# A network of 10 Gbit/s between eight hosts.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("gin_file", "bindings", "mesh", "dimensions"),
    [
        # Little to send once a step, or activations in every layer.
        ("quickstart", [], "data:8", ["batch"]),
        ("digits", [], "data:8", ["batch"]),
        # Gradients of 100 MB, or activations of 1 MB.
        (
            "quickstart",
            ["D_MODEL=1024", "D_FF=8192", "NUM_LAYERS=1", "SEQUENCE_LENGTH=32"],
            None,
            ["d_ff"],
        ),
        # Tokens go to the experts; the gradients of all experts do not go to all devices.
        ("moe_quickstart", ["D_FF=8192"], None, ["expert_x", "expert_y", "expert_hidden"]),
    ],
)
def test_the_choice_for_a_slow_network(
    gin_file: str, bindings: list[str], mesh: str | None, dimensions: list[str]
) -> None:
    result = mtfrun(
        *("plan", "--search", "--json", "--devices=8", "--profile=t4", "--candidates=10"),
        f"--gin_file=runs/{gin_file}.gin",
        *(f"--gin.{binding}" for binding in bindings),
    )
    assert result.returncode == 0, result.stderr.decode()
    best = json.loads(result.stdout)["ranking"][0]
    assert mesh in (None, best["mesh"])
    assert any(f"{name}:" in best["layout"] for name in dimensions)
