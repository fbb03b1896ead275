"""A student in a run: training, resuming, and its use without its teacher."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

import mtfrun
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, header_of, mtfrun_here, succeeded

STUDENT = ["--gin_file=teachers/run.gin", "--gin.D_MODEL=8", "--gin.EVAL_AT_START=False"]


def _flags(teacher: pathlib.Path, *, steps: int = 2) -> list[str]:
    """Returns flags of a narrower model on the teacher's data, with a schedule of three steps."""
    return [
        f"--gin_file={teacher}/config.gin",
        *STUDENT,
        f"--gin.TEACHER='{teacher}'",
        "--gin.HIDDEN_WEIGHT=0.1",
        f"--gin.TRAIN_STEPS={steps}",
        "--gin.CosineDecay.total_steps=3",
    ]


def _train(teacher: pathlib.Path, run: pathlib.Path, *, steps: int) -> dict[str, str]:
    process = mtfrun_here("train", *_flags(teacher, steps=steps), f"--model_dir={run}")
    succeeded(process)
    return header_of(process)


@pytest.fixture(scope="module")
def teacher(
    untouched_runs: Callable[[str], pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A run of two steps."""
    run = tmp_path_factory.mktemp("distillation") / "teacher"
    shutil.copytree(untouched_runs("language model"), run)
    return run


@pytest.fixture(scope="module")
def student(teacher: pathlib.Path) -> pathlib.Path:
    """A run of three steps."""
    run = teacher.parent / "student"
    assert _train(teacher, run, steps=3)["teacher"] == f"step 2 of {teacher}"
    return run


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(
    teacher: pathlib.Path, student: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    resumed = tmp_path / "resumed"
    _train(teacher, resumed, steps=1)
    assert _train(teacher, resumed, steps=3)["start"] == "resuming from step 1 of 3"
    expected = mtfrun.load(student).variables()
    actual = mtfrun.load(resumed).variables()
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(actual[path], value)


def test_a_student_is_used_and_read_again_without_its_teacher(
    teacher: pathlib.Path, student: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(student, tmp_path / "student")
    manifest = RunDirectory(str(run)).checkpoints().manifest(3)
    assert manifest is not None
    assert manifest.metadata["teacher"]["step"] == 2
    status = RunDirectory(str(run)).record().status()
    assert status is not None
    assert {"loss", "accuracy", "distillation", "hidden_distance"} <= status.values.keys()
    config = pathlib.Path(run, "config.gin")
    config.write_text(config.read_text().replace(str(teacher), "/none"))
    (answer,) = succeeded(mtfrun_here("decode", f"--model_dir={run}", "--prompt=the "))
    assert answer["step"] == 3
    # The projection is beside the model.
    variables = mtfrun.load(run).variables()
    assert "loss_terms/0/projection" not in variables
    files = [f"{teacher}/config.gin"]
    begun = mtfrun.load(None, gin_files=files, D_MODEL=8, INIT_CHECKPOINT=str(run))
    assert variables.keys() == begun.variables().keys()


@pytest.mark.slow
def test_the_vectors_of_a_teacher_have_the_width_behind_a_factorised_embedding(
    teacher: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    factorised, run = tmp_path / "factorised", tmp_path / "run"
    flags = ["--gin.D_MODEL=24", "--gin.TokenEmbedding.d_embedding=4", "--gin.TRAIN_STEPS=1"]
    train = ["train", f"--gin_file={teacher}/config.gin", f"--model_dir={factorised}"]
    succeeded(mtfrun_here(*train, *flags))
    _train(factorised, run, steps=1)
    manifest = RunDirectory(str(run)).checkpoints().manifest(1)
    assert manifest is not None
    assert list(manifest.variables["model/loss_terms/0/projection"].shape) == [8, 24]


@pytest.fixture(scope="module")
def logits(teacher: pathlib.Path) -> pathlib.Path:
    """The teacher's two likeliest ids of every target."""
    flags = [f"--model_dir={teacher}", f"--to={teacher.parent}/logits", "--top_k=2"]
    process = mtfrun_here("data", "logits", *flags)
    assert process.returncode == 0, process.stderr.decode()
    return teacher.parent / "logits"


def _stored(teacher: pathlib.Path, logits: pathlib.Path) -> list[str]:
    return [
        *("train", f"--gin_file={teacher}/config.gin", "--gin_file=teachers/stored_logits.gin"),
        *("--gin.D_MODEL=8", f"--gin.TEACHER_LOGITS='{logits}'", "--gin.EVAL_AT_START=False"),
    ]


@pytest.mark.slow
def test_a_student_learns_from_stored_logits_alone(
    teacher: pathlib.Path, logits: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arrays = [np.load(logits / f"0-{name}.npy") for name in ("ids", "probabilities")]
    rows = mtfrun.load(teacher).experiment.data.train(1, seed=0).components[0]
    assert [x.shape for x in arrays] == [(len(rows), 32, 2)] * 2
    assert all(x.dtype == np.uint16 and x.any() for x in arrays)
    process = mtfrun_here(*_stored(teacher, logits), f"--model_dir={tmp_path}/run")
    succeeded(process)
    assert header_of(process)["teacher"] == f"step 2 of {logits}"
    status = RunDirectory(f"{tmp_path}/run").record().status()
    assert status is not None
    assert status.values["distillation"] > 0.0


@pytest.mark.slow
def test_a_mistake_about_stored_logits_is_one_line(
    teacher: pathlib.Path, logits: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    train = [*_stored(teacher, logits), f"--model_dir={tmp_path}/new"]
    store = ["data", "logits", f"--model_dir={teacher}"]
    lines = {
        "store them with `mtfrun data logits": [*train, "--gin.TEACHER_LOGITS='/none'"],
        "are of other training rows": [*train, "--gin.SEQUENCE_LENGTH=16"],
        "have the temperature 2.0": [*train, "--gin.TEMPERATURE=1.0"],
        "replaces path and has no vectors": [*train, "--gin.Teacher.hidden_weight=1.0"],
        "is not empty: name a new": [*store, f"--to={logits}"],
        "--top_k is 500": [*store, f"--to={tmp_path}/new", "--top_k=500"],
        "data logits needs --to=": store,
    }
    for message, command in lines.items():
        assert message in error_line(mtfrun_here(*command))


def test_mistakes_are_one_line(
    teacher: pathlib.Path, student: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "hugging_face"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    train = ["train", *_flags(teacher), f"--model_dir={tmp_path}/new"]
    lines = {
        "a student needs a teacher": [*train, "--gin.TEACHER=None"],
        "no run of a teacher with checkpoints in /none": [*train, "--gin.TEACHER='/none'"],
        f"mtfrun import --from={folder}": [*train, f"--gin.TEACHER='{folder}'"],
        "has no checkpoint of step 7": [*train, "--gin.TEACHER_CHECKPOINT=7"],
        "Teacher.temperature is 0.0": [*train, "--gin.TEMPERATURE=0.0"],
        "they need the same vocabulary": [*train, "--gin.ByteVocabulary.size=300"],
        "and the teacher is step 1 of": [
            *("train", *_flags(teacher, steps=3), f"--model_dir={student}"),
            "--gin.TEACHER_CHECKPOINT=1",
        ],
    }
    for message, command in lines.items():
        assert message in error_line(mtfrun_here(*command))


def test_a_plan_of_a_student_reads_no_values_of_its_teacher(teacher: pathlib.Path) -> None:
    process = mtfrun_here("train", *_flags(teacher), "--dry_run")
    assert process.returncode == 0, process.stderr.decode()
    assert "loss_terms/0/projection" in process.stdout.decode()
