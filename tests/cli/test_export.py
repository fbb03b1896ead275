"""The command export, for the formats of the core."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mtfrun.experiment.conversion import values_of_run
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, full_disk, mtfrun_here, succeeded


def export(run: pathlib.Path, target: pathlib.Path, form: str, *flags: str) -> None:
    arguments = [f"--model_dir={run}", f"--to={target}", f"--format={form}", *flags]
    process = mtfrun_here("export", *arguments)
    assert process.returncode == 0, process.stderr.decode()


def test_a_checkpoint_of_tensorflow_holds_all_variables_by_path(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    export(language_model_run, tmp_path / "checkpoint", "tensorflow")
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoint"))
    assert reader.get_tensor("global_step") == 2
    values = values_of_run(RunDirectory(language_model_run)).values
    assert set(reader.get_variable_to_shape_map()) == {*values, "global_step"}
    for path, value in values.items():
        np.testing.assert_array_equal(reader.get_tensor(path), value)


def test_a_full_disk_is_one_line_and_leaves_nothing(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    assert_refused_by_a_full_disk(language_model_run, tmp_path, "tensorflow", 1000)


def assert_refused_by_a_full_disk(
    run: pathlib.Path, directory: pathlib.Path, form: str, bytes_of_a_file: int
) -> None:
    flags = [f"--model_dir={run}", f"--to={directory}/x", f"--format={form}"]
    with full_disk(bytes_of_a_file):
        process = mtfrun_here("export", *flags)
    assert f"cannot write {directory}/x: File too large; free space" in error_line(process)
    assert not list(directory.iterdir())


@pytest.mark.slow
def test_a_run_may_begin_with_a_checkpoint_that_was_exported_for_tensorflow(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "checkpoint"
    export(language_model_run, target, "tensorflow")
    prompt = ["--prompt=line", "--decode_length=4"]
    decoded = succeeded(mtfrun_here("decode", f"--model_dir={language_model_run}", *prompt))
    flags = [f"--gin_file={language_model_run / 'config.gin'}"]
    flags.append(f"--gin.INIT_CHECKPOINT='{target}'")
    assert succeeded(mtfrun_here("decode", *flags, *prompt)) == decoded
