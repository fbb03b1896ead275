"""Records of the configuration and the command of a training in its run directory."""

from __future__ import annotations

import pathlib
import shlex

import pytest

from mtfrun.api.recorded_training import as_text, recorded
from mtfrun.rundir import RunDirectory, Setup
from tests.cli.command import error_line, mtfrun_here, tiny_experiment

SETUP = Setup("NEW = 1\n", seed=3, mesh="data:1", layout="", devices="devices: CPU:0")


def _files(run: pathlib.Path) -> dict[str, bytes]:
    """Returns the records of a run."""
    paths = [*run.glob("*.gin"), *run.glob("commands/*")]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_a_configuration_that_does_not_fit_is_recorded_nowhere(
    run_copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    before = _files(run_copy)
    assert {"config.gin", "operative_config.gin", "commands/0001.json"} <= set(before)
    flags = [*tiny_experiment(tmp_path), f"--model_dir={run_copy}", "--gin.D_MODEL=8"]
    assert "D_MODEL 16 -> 8" in error_line(mtfrun_here("train", *flags))
    assert _files(run_copy) == before


def test_a_run_without_data_is_recorded_nowhere(tmp_path: pathlib.Path) -> None:
    run = tmp_path / "run"
    flags = [*tiny_experiment(tmp_path), f"--model_dir={run}", "--gin.TEXT_FILES='none/*.txt'"]
    error_line(mtfrun_here("train", *flags))
    assert _files(run) == {}


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_an_error_after_the_first_step_leaves_the_records(
    error: type[Exception], tmp_path: pathlib.Path
) -> None:
    run = RunDirectory(tmp_path)
    run.write_config("OLD = 1\n")
    with pytest.raises(error), recorded(run, SETUP, "NEW = 2\n", ["mtfrun"], lambda: 1):
        raise error("of the second step")
    assert run.read_config() == "NEW = 1\n"
    assert set(_files(tmp_path)) == {"config.gin", "operative_config.gin", "commands/0001.json"}


def test_a_command_reads_as_it_is_typed() -> None:
    command = ["mtfrun", "train", "--gin.LAYOUT='a:b;c:d'", "--gin_file=caf\udce9.gin"]
    text = as_text(command)
    assert shlex.split(text)[:3] == command[:3]
    assert text.endswith("--gin_file=caf\ufffd.gin'")
