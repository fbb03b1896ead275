"""Processes of one run that were started with different settings end before the first step."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.cli.command import ROOT, environment, tiny_experiment
from tests.processes.threads import free_address

_SAME = r": start all processes with the same$"
REFUSED = {
    "the seed": (["--gin.SEED=3"], r"configuration: SEED 0 -> 3" + _SAME),
    "the rate": (["--gin.LEARNING_RATE=0.5"], r"configuration: LEARNING_RATE .* -> 0.5" + _SAME),
    "the batch": (["--gin.BATCH_SIZE=16"], r"configuration: BATCH_SIZE 8 -> 16" + _SAME),
    "the layers": (["--gin.NUM_LAYERS=3"], r"configuration: NUM_LAYERS 1 -> 3" + _SAME),
    "the steps": (["--gin.TRAIN_STEPS=4"], r"configuration: TRAIN_STEPS .* -> 4" + _SAME),
    "the mesh": (["--gin.MESH_SHAPE='data:4,model:1'"], r"configuration: MESH_SHAPE .*" + _SAME),
    "a flag": (["--accept_changes"], r"command: --accept_changes False -> True" + _SAME),
    "the directory": (["--model_dir={}/other"], r"--model_dir \S+/other than process 0 \(.*share$"),
    "a module": (["cwd"], r"code: mine \w{12} -> \w{12}" + _SAME),
    "the data": (["cwd"], r"(training data|vocabulary or data): .*" + _SAME),
}
QUICK = "a flag"


def _train(directory: pathlib.Path, flags: Sequence[str], *other: str) -> list[tuple[int, str]]:
    """Returns exit codes and errors of two processes, the second one with other flags."""
    shared = ["--num_processes=2", f"--coordinator={free_address()}", "--trusted_network"]
    folders = [directory, directory / "other" if "cwd" in other else directory]
    extra = [[], [flag.format(directory) for flag in other if flag != "cwd"]]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "mtfrun", "train", f"--process_id={index}", *shared),
                *(*flags, f"--model_dir={directory}/run", *extra[index]),
            ],
            cwd=folders[index],
            env={**environment(), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [(p.returncode, error) for p, error in zip(processes, errors, strict=True)]


def _flags(directory: pathlib.Path) -> list[str]:
    """Returns the flags of a training on data in the working directory."""
    for folder in (directory, directory / "other"):
        folder.mkdir(exist_ok=True)
        flags = tiny_experiment(folder)
        (folder / "mine.py").write_text(f"# {folder}")
    (directory / "other" / "train.txt").write_text("another text\n" * 100)
    relative = [flag.replace(f"{directory}/other/", "") for flag in flags]
    return [*relative, "--gin.MESH_SHAPE='data:2,model:1'", "--gin.LAYOUT='batch:data'"]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == QUICK else pytest.mark.slow) for n in REFUSED]
)
def test_a_difference_ends_all_processes_and_is_named(name: str, tmp_path: pathlib.Path) -> None:
    other, message = REFUSED[name]
    flags = [*_flags(tmp_path), *["--module_import=mine"] * (name == "a module")]
    (code, error), (other_code, other_error) = _train(tmp_path, flags, *other)
    assert (code, other_code, other_error) == (2, 2, "")
    (line,) = error.splitlines()
    assert re.match(r"mtfrun: error: process 1 of 2 ", line) and re.search(message, line), line
    assert not list(tmp_path.glob("**/ckpt-*")) and not list(tmp_path.glob("**/config.gin"))


@pytest.mark.slow
def test_some_settings_may_differ(tmp_path: pathlib.Path) -> None:
    other = ["--gin.ITERATIONS_PER_LOOP=2", "--profile", "--gin.Mesh.devices=['CPU:0']", "--debug"]
    flags = [*_flags(tmp_path), "--gin.ITERATIONS_PER_LOOP=1"]
    codes = [code for code, _ in _train(tmp_path, flags, *other)]
    assert codes == [0, 0]
