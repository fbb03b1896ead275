"""The command plan and dry runs: sizes, collectives, JSON, pictures, memory, the fastest layout."""

from __future__ import annotations

import json
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment.runs.opening import ROOTS
from mtfrun.extras.plan.profile import find_profile
from tests.cli.command import (
    ROOT,
    TINY,
    environment,
    error_line,
    mtfrun,
    mtfrun_here,
    tiny_experiment,
)

LM = ["--gin_file=runs/quickstart.gin", *TINY, "--layout=batch:data;heads:model;d_ff:model"]
SEARCH = ["plan", "--search", "--devices=8", "--gin_file=runs/quickstart.gin", *TINY]
SEARCH.append("--gin.NUM_LAYERS=1")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return tiny_experiment(tmp_path_factory.mktemp("texts"))


RULES = "batch:data;heads:model;d_ff:model;vocab:model;sources:model;outer_batch:model"
MESH = ["--gin.MESH_SHAPE='data:2,model:2'", f"--gin.LAYOUT='{RULES}'", "--gin.NUM_LAYERS=2"]


def test_a_dry_run_prints_the_variables_and_the_rules_without_a_dimension(
    flags: list[str], tmp_path: pathlib.Path
) -> None:
    process = mtfrun_here("train", *flags, *MESH, f"--model_dir={tmp_path}/run", "--dry_run")
    assert process.returncode == 0, process.stderr.decode()
    assert not (tmp_path / "run").exists()
    assert re.search(
        r"^decoder_stack/blocks/1/self_attention/layer/attention/query +"
        r"d_model:16;heads:4;d_kv:4 +-,model,- +16x2x4 +512$",
        process.stdout.decode(),
        re.MULTILINE,
    )
    # A layout that models with mixtures share may have the second rule: it is not 'batch' misspelt.
    assert "rules unused: sources:model, outer_batch:model" in process.stdout.decode()
    wrong = ["--gin.MESH_SHAPE='data:2,model:3'", f"--gin.LAYOUT='{RULES}'"]
    assert "heads:4 over model:3" in error_line(mtfrun_here("train", *flags, *wrong, "--dry_run"))


@pytest.mark.slow
def test_a_plan_counts_the_collectives_of_a_step(flags: list[str]) -> None:
    process = mtfrun("plan", *flags, *MESH)
    assert (process.returncode, process.stderr) == (0, b"")
    assert "256 tokens a step" in process.stdout.decode()
    lines = [line[16:] for line in process.stdout.decode().splitlines()]
    # On each device: 4 rows of 32 tokens, vectors of 16, half of the 384 rows of the vocabulary.
    activations, per_token, half_table = 4 * 32 * 16 * 4, 4 * 32 * 4, 384 // 2 * 16 * 4
    # Over data: the gradients of 19 variables, half of the split ones; that of the embedding's
    # look-up comes besides that of the logits; loss, its weight and accuracy.
    gradients = 22_848 + half_table + 3 * 4
    # Over model: the look-up sums the vectors of both halves of the table. Each of 2 blocks sums
    # attention's output, its 3 gradients, and in the feed-forward layer the output and 1 gradient;
    # the logits' gradient is summed once. The cross entropy sums 3 values per token over the
    # vocabulary. Adafactor: mean squares of 13 split variables, three each; those of variables of
    # one shape in one all-reduce.
    sums = 14 * activations + 3 * per_token + 39 * 4
    assert [line for line in lines if " a step, by" in line or " over " in line] == [
        "63 a step, by mesh axis and the dimensions that cause them",
        f"23 all-reduce over data (batch): {gradients:,} bytes on each device",
        f"40 all-reduce over model (d_ff, heads, vocab): {sums:,} bytes on each device",
    ]


def test_all_dimensions_that_do_not_divide_are_named_with_sizes_that_do() -> None:
    line = error_line(mtfrun_here("plan", *LM, "--mesh=data:3,model:5"))
    for problem in ("heads:4 over model:5 (5)", "d_ff:32 over model:5 (30 or 35)"):
        assert problem in line
    assert "batch:8 over data:3 (6 or 9)" in line


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--picture=mesh.png", "name a file that ends in .svg or .html"),
        ("--device_memory=big", "'big' is not a number of bytes"),
        ("--bandwidth=rows:1GB", "--bandwidth names rows: the axes of the mesh are data, model"),
    ],
)
def test_values_of_flags_that_cannot_be_used_are_refused(flag: str, problem: str) -> None:
    assert problem in error_line(mtfrun_here("plan", *LM, "--mesh=data:2,model:2", flag))


@pytest.mark.slow
def test_a_plan_is_json_with_a_picture_and_compared_with_the_memory(tmp_path: pathlib.Path) -> None:
    picture = tmp_path / "mesh.html"
    flags = ["--mesh=data:64,model:4", "--gin.BATCH_SIZE=64", "--device_memory=10KB"]
    flags.append("--gin.NUM_LAYERS=1")
    process = mtfrun("plan", *LM, *flags, "--json", f"--picture={picture}")
    assert process.returncode == 6, process.stderr.decode()
    plan = json.loads(process.stdout)
    assert plan["mesh"] == {"data": 64, "model": 4} and plan["device_memory"] == 10_000
    assert plan["memory"]["total"] > 10_000
    assert {"all-reduce"} <= {item["kind"] for item in plan["collectives"]}
    assert "<svg" in picture.read_text() and "collectives" in picture.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--search", "--profile=t4"], "needs a number of devices"),
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


def test_a_profile_that_does_not_fit_says_how_to_measure_one(tmp_path: pathlib.Path) -> None:
    profile = tmp_path / "devices.json"
    measure = f"mtfrun plan --calibrate --devices=8 --profile={profile}"
    assert measure in error_line(mtfrun_here(*SEARCH, f"--profile={profile}"))
    fields = json.loads(find_profile("t4", 8).to_json()) | {"devices": 4}
    profile.write_text(json.dumps(fields))
    line = error_line(mtfrun_here(*SEARCH, f"--profile={profile}"))
    assert "measured with 4 devices, not with 8" in line


# By default tests/extras/plan/test_candidates.py ranks candidates.
@pytest.mark.slow
def test_the_ranking_is_gin_that_can_be_pasted(tmp_path: pathlib.Path) -> None:
    process = mtfrun(*SEARCH, "--profile=t4", "--candidates=2", "--json")
    assert process.returncode == 0, process.stderr.decode()
    assert process.stderr.startswith(b"planning a step on one device\n")
    ranking = json.loads(process.stdout)["ranking"]
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
def test_the_choice_for_a_slow_network() -> None:
    # Gradients of 100 MB, or activations of 1 MB.
    bindings = ["D_MODEL=1024", "D_FF=8192", "NUM_LAYERS=1", "SEQUENCE_LENGTH=32"]
    result = mtfrun(
        *("plan", "--search", "--json", "--devices=8", "--profile=t4", "--candidates=10"),
        "--gin_file=runs/quickstart.gin",
        *(f"--gin.{binding}" for binding in bindings),
    )
    assert result.returncode == 0, result.stderr.decode()
    assert "d_ff:" in json.loads(result.stdout)["ranking"][0]["layout"]


@pytest.mark.slow
def test_a_plan_counts_images() -> None:
    small = ["--gin.STAGE_SIZES=[1]", "--gin.WIDTHS=[4]", "--gin.AVERAGE_DECAY=0.9"]
    process = mtfrun("plan", "--gin_file=runs/digits.gin", *small, "--gin.TRAIN_STEPS=3")
    assert process.returncode == 0, process.stderr.decode()
    report = process.stdout.decode()
    assert "batch           64 images a step; 192 images in all" in report
    assert re.search(r"^averages        [\d,]+ bytes, [\d,]+ on each device", report, re.MULTILINE)
