"""The commands `checkpoints ...` on a run with checkpoints of steps 1 and 2."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.retention import Best, write_best
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.files.errors import IncompatibleError
from mtfrun.rundir import RunDirectory
from tests.cli.command import ROOT, error_line, mtfrun_here, succeeded, tiny_experiment

_TABLE = "model/embedding/table"


def _lines(process: subprocess.CompletedProcess[bytes], code: int = 0) -> list[str]:
    """Returns what a command has printed; it must have ended with `code`."""
    assert process.returncode == code, process.stderr.decode()
    return process.stdout.decode().splitlines()


def _checkpoints(command: str, run: pathlib.Path, *flags: str) -> list[str]:
    return _lines(mtfrun_here("checkpoints", command, f"--model_dir={run}", *flags))


def _steps(run: pathlib.Path) -> list[int]:
    return RunDirectory(run).checkpoints().steps()


def _damage(run: pathlib.Path, step: int) -> None:
    """Changes one byte of the values of a checkpoint."""
    path = run / "checkpoints" / f"ckpt-{step}.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def _values(run: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    directory = run / "checkpoints"

    def read(manifest: object) -> dict[str, np.ndarray]:
        values = CheckpointValues(directory, manifest)  # type: ignore[arg-type]
        return {path: values[path] for path in manifest.variables}  # type: ignore[attr-defined]

    return Checkpoints(directory).read(step, read)


def test_a_list_has_step_size_mesh_metric_and_damage(run_copy: pathlib.Path) -> None:
    heading, first, second = _checkpoints("list", run_copy)
    assert heading.split() == ["step", "saved", "size", "loss", "state", "mesh"]
    assert first.split()[0] == "1" and first.split()[-2:] == ["good", "data:1;model:1"]
    assert second.split()[-3].endswith("*")  # the loss of step 2, the only one that was evaluated
    (run_copy / "checkpoints" / "ckpt-1.index").write_bytes(b"")
    lines = _checkpoints("list", run_copy)
    assert lines[1].split()[-2] == "damaged"
    assert lines[3].startswith("step 1: ckpt-1.index has 0 bytes, ")
    (rows,) = _checkpoints("list", run_copy, "--json")
    first_row, second_row = json.loads(rows)
    assert (first_row["state"], second_row["state"]) == ("damaged", "good")
    assert second_row["metrics"]["loss"] > 0


def test_unknown_metrics_and_directories_are_one_line(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [f"--model_dir={language_model_run}", "--metric=los"]
    assert "did you mean 'loss'?" in error_line(mtfrun_here("checkpoints", "list", *flags))
    for name in ("list", "show", "verify"):
        line = error_line(mtfrun_here("checkpoints", name, f"--model_dir={tmp_path}"))
        assert f"no checkpoint in {tmp_path}/checkpoints" in line
        assert "needs the directory of a run" in error_line(mtfrun_here("checkpoints", name))


def test_show_has_dimensions_norms_and_totals(language_model_run: pathlib.Path) -> None:
    lines = _checkpoints("show", language_model_run, "--norms", "--match=embedding/table$")
    heading = next(i for i, line in enumerate(lines) if line.startswith("variable"))
    table = _values(language_model_run, 2)[_TABLE]
    rms, largest = np.sqrt(np.mean(np.square(table.astype(np.float64)))), np.abs(table).max()
    assert lines[heading + 1].split() == [
        *(_TABLE, f"{rms:.4f}", f"{largest:.4f}"),
        *("24.6", "kB", "vocab:384;d_model:16", "float32"),
    ]
    assert any(line.startswith("optimizer: 11 variables, ") for line in lines)
    assert "layout: batch:data;heads:model;d_ff:model;vocab:model" in lines
    flags = [f"--model_dir={language_model_run}", "--json", "--checkpoint=1"]
    (shown,) = succeeded(mtfrun_here("checkpoints", "show", *flags))
    assert shown["step"] == 1 and shown["record"]["mesh"] == "data:1;model:1"
    assert all(variable["path"].startswith("model/") for variable in shown["variables"])
    line = error_line(mtfrun_here("checkpoints", "show", *flags, "--match=nothing"))
    assert "--match=nothing is in the path of none" in line


def test_verify_names_every_damaged_file_and_changes_nothing(
    run_copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_copy, copy)
    assert [line.split(",")[0] for line in _checkpoints("verify", copy)] == [
        "step 1: good",
        "step 2: good",
    ]
    _damage(copy, 2)
    (copy / "checkpoints" / "ckpt-2.index").unlink()
    before = sorted(copy.rglob("*"))
    lines = _lines(mtfrun_here("checkpoints", "verify", f"--model_dir={copy}"), code=5)
    assert lines[1:] == [
        "step 2: damaged: ckpt-2.index: No such file or directory",
        "step 2: damaged: ckpt-2.data-00000-of-00001 has changed since it was saved "
        "(SHA-256 differs)",
    ]
    assert sorted(copy.rglob("*")) == before
    assert len(_checkpoints("verify", copy, "--checkpoint=1")) == 1


def test_prune_keeps_the_newest_good_checkpoint(run_copy: pathlib.Path) -> None:
    command = ["checkpoints", "prune", f"--model_dir={run_copy}"]
    line = error_line(mtfrun_here(*command, "--steps=1,2"))
    assert "step 2 is the newest good checkpoint" in line
    _damage(run_copy, 2)
    assert "would delete 0 of 2" in _checkpoints("prune", run_copy, "--keep=1", "--dry_run")[-1]
    assert "step 1 is the newest good" in error_line(mtfrun_here(*command, "--steps=1"))
    assert _steps(run_copy) == [1, 2]
    _checkpoints("prune", run_copy, "--steps=2")
    assert _steps(run_copy) == [1]
    assert not list((run_copy / "checkpoints").glob("*ckpt-2*"))
    assert _checkpoints("verify", run_copy) != []


def test_prune_by_number_keeps_the_best_checkpoint(run_copy: pathlib.Path) -> None:
    write_best(run_copy / "checkpoints", Best(1, "eval/loss", 1.0))
    assert "deleted 0 of 2" in _checkpoints("prune", run_copy, "--keep=1")[-1]
    _checkpoints("prune", run_copy, "--steps=1")
    assert _steps(run_copy) == [2]


def test_prune_deletes_checkpoints_that_were_set_aside(run_copy: pathlib.Path) -> None:
    run = RunDirectory(run_copy)
    for _ in range(2):
        shutil.copytree(run_copy / "checkpoints", run_copy / "copy")
        assert run.set_checkpoints_aside() is not None
        (run_copy / "copy").rename(run_copy / "checkpoints")
    (run_copy / "checkpoints.3").symlink_to(run_copy / "checkpoints")
    (run_copy / "checkpoints.old").mkdir()
    lines = _checkpoints("prune", run_copy, "--set_aside", "--dry_run")
    assert [line.split(",")[0] for line in lines] == [
        f"would delete {run_copy}/checkpoints.{number}" for number in (1, 2)
    ]
    assert len(_checkpoints("prune", run_copy, "--set_aside")) == 2
    assert _steps(run_copy) == [1, 2] and (run_copy / "checkpoints.old").is_dir()
    assert "has no checkpoints that" in _checkpoints("prune", run_copy, "--set_aside")[0]
    flags = [f"--model_dir={run_copy}", "--set_aside", "--keep=1"]
    assert "goes without" in error_line(mtfrun_here("checkpoints", "prune", *flags))


def test_prune_deletes_nothing_of_a_run_that_is_trained(run_copy: pathlib.Path) -> None:
    with RunDirectory(run_copy).lock():
        for flags in ([], ["--dry_run"]):
            process = mtfrun_here(
                "checkpoints", "prune", f"--model_dir={run_copy}", "--keep=1", *flags
            )
            assert str(run_copy) in error_line(process)
    assert _steps(run_copy) == [1, 2]
    for flags in ([], ["--keep=0"], ["--steps=a"], ["--keep=1", "--steps=1"], ["--steps=7"]):
        process = mtfrun_here("checkpoints", "prune", f"--model_dir={run_copy}", *flags)
        assert error_line(process).startswith("mtfrun: error: ")


def test_diff_sorts_by_relative_difference(language_model_run: pathlib.Path) -> None:
    run = language_model_run
    lines = _lines(mtfrun_here("checkpoints", "diff", f"{run}@1", str(run), "--rows=0"))
    first, second = _values(run, 1), _values(run, 2)
    rows = [line.split() for line in lines if line.startswith("model/")]
    relative = [float(row[1]) for row in rows]
    assert relative == sorted(relative, reverse=True) and relative[0] > 0
    (row,) = (row for row in rows if row[0] == _TABLE)
    change = second[_TABLE].astype(np.float64) - first[_TABLE].astype(np.float64)
    assert row[2] == f"{np.abs(change).max():.3g}"
    assert row[1] == f"{np.linalg.norm(change) / np.linalg.norm(first[_TABLE]):.3g}"
    same = _lines(mtfrun_here("checkpoints", "diff", f"--model_dir={run}", "2", "2"))
    assert same[-1] == "0 variables differ, 11 are equal"
    assert "step 1 of which run" in error_line(mtfrun_here("checkpoints", "diff", "1", str(run)))


def test_the_average_is_numpys(language_model_run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    run, target = language_model_run, tmp_path / "averaged"
    command = ["checkpoints", "average", f"--model_dir={run}", f"--output={target}"]
    _lines(mtfrun_here(*command, "--last=2"))
    steps = [_values(run, step) for step in (1, 2)]
    averaged = _values(target, 2)
    assert averaged.keys() == {"step", *(p for p in steps[0] if p.startswith("model/"))}
    for path, value in averaged.items():
        if path != "step":
            mean = np.mean([step[path].astype(np.float64) for step in steps], axis=0)
            np.testing.assert_array_equal(value, mean.astype(np.float32))
    assert "is not empty" in error_line(mtfrun_here(*command, "--last=2"))
    assert "has 2 checkpoints" in error_line(mtfrun_here(*command[:-1], "--output=x", "--last=3"))


@pytest.mark.slow
def test_an_average_is_evaluated_decodes_and_begins_another_run(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "averaged"
    command = ["checkpoints", "average", f"--model_dir={language_model_run}", "--last=2"]
    _lines(mtfrun_here(*command, f"--output={target}"))
    (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={target}"))
    assert metrics["step"] == 2
    (record,) = succeeded(mtfrun_here("decode", f"--model_dir={target}", "--prompt=the "))
    assert record["step"] == 2
    # Training needs a new directory, which begins with the average.
    flags = tiny_experiment(tmp_path)
    line = error_line(mtfrun_here("train", *flags, "--gin.TRAIN_STEPS=3", f"--model_dir={target}"))
    assert "has weights without an optimizer; train in another --model_dir, with" in line
    start = f"--gin.INIT_CHECKPOINT='{target}'"
    succeeded(mtfrun_here("train", *flags, start, f"--model_dir={tmp_path}/next"))


@pytest.mark.parametrize(
    ("flag", "change"),
    [
        ("--gin.D_MODEL=8", "D_MODEL 16 -> 8"),
        ("--gin.AVERAGE_DECAY=0.9", "AVERAGE_DECAY None -> 0.9"),
    ],
)
def test_an_incompatible_run_is_explained_by_its_configuration(
    flag: str, change: str, run_copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [*tiny_experiment(tmp_path), flag, "--gin.TRAIN_STEPS=4", "--gin.LEARNING_RATE=0.5"]
    line = error_line(mtfrun_here("train", *flags, f"--model_dir={run_copy}"))
    assert (
        f"ckpt-2 is incompatible with the model, whose configuration has changed: {change}" in line
    )
    assert len(line) < 400 and "LEARNING_RATE" not in line


def test_evaluation_and_initialising_are_explained_too(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = language_model_run
    line = error_line(mtfrun_here("eval", f"--model_dir={run}", "--gin.D_FF=64"))
    assert "D_FF 32 -> 64;" in line
    start = [*tiny_experiment(tmp_path), "--gin.NUM_LAYERS=3"]
    start.append(f"--gin.INIT_CHECKPOINT='{run}/checkpoints/ckpt-1'")
    line = error_line(mtfrun_here("eval", *start))
    assert "NUM_LAYERS 1 -> 3;" in line


def test_without_a_configuration_the_first_shapes_are_named(run_copy: pathlib.Path) -> None:
    variables = {_TABLE: np.zeros([2, 2]), "model/x": np.zeros([3])}
    with pytest.raises(IncompatibleError) as raised:
        _restore(run_copy, variables)
    message = str(raised.value)
    assert "model/embedding/table float32[384, 16] -> float64[2, 2]" in message
    assert (
        "model/x (none) -> float64[3]" in message
        and "optimizer" not in message
        and len(message) < 600
    )


def _restore(run: pathlib.Path, values: dict[str, np.ndarray]) -> None:
    import tensorflow as tf  # noqa: PLC0415 - here, so that its log level is set

    variables = {path: tf.Variable(value) for path, value in values.items()}
    RunDirectory(run).checkpoints().restore(None, variables)


def test_lists_are_made_without_tensorflow(language_model_run: pathlib.Path) -> None:
    code = (
        "import sys\nfrom mtfrun.cli.main import main\n"
        f"flag = '--model_dir={language_model_run}'\n"
        "codes = [main(['checkpoints', name, flag]) for name in ('list', 'show', 'verify')]\n"
        f"codes.append(main(['checkpoints', 'prune', flag, '--keep=9']))\n"
        f"codes.append(main(['runs', {str(language_model_run.parent)!r}]))\n"
        "print([name for name in ('tensorflow', 'numpy') if name in sys.modules], codes)"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert process.stdout.splitlines()[-1] == "[] [0, 0, 0, 0, 0]", process.stderr
