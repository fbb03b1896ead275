"""Runs can be moved, and used from any directory without their training files."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

import mtfrun
from mtfrun.configuration.run_files import RunFiles
from mtfrun.errors import ConfigError, InputError
from tests.cli.command import TINY, TWO_STEPS, error_line, mtfrun_here, succeeded
from tests.cli.small_vocabulary import flag_of_small_vocabulary

PROMPT = "--prompt=one of many words"


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run that was trained on files of its working directory; both have been moved.

    The working directory is now "texts", beside the run.
    """
    place = tmp_path_factory.mktemp("moved")
    project = place / "project"
    project.mkdir()
    (project / "text.txt").write_text("".join(f"{i} is one of many words\n" for i in range(300)))
    flag_of_small_vocabulary(project)
    flags = [
        *("--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", *TINY, *TWO_STEPS),
        *("--gin_file=data/text_lines.gin", "--gin.TEXT_FILES=['text.txt']"),
        *("--gin_file=data/sentencepiece.gin", "--gin.VOCABULARY_FILE='small.model'"),
    ]
    succeeded(mtfrun_here("train", *flags, "--model_dir=run", cwd=project))
    (project / "run").rename(place / "run")
    project.rename(place / "texts")
    return place / "run"


@pytest.fixture
def copied(moved: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the run, to be damaged."""
    shutil.copytree(moved, tmp_path / "run")
    return tmp_path / "run"


def _copy_of_vocabulary(run: pathlib.Path) -> pathlib.Path:
    (file,) = (run / "vocabulary").iterdir()
    return file


def test_a_moved_run_decodes_with_its_copy_of_the_vocabulary(
    moved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (record,) = succeeded(mtfrun_here("decode", f"--model_dir={moved}", PROMPT, cwd=tmp_path))
    assert record["prompt_tokens"] < 20
    assert mtfrun.load(str(moved)).decode(["one of many words"])[0].output == record["output"]
    copy = json.loads((moved / "files.json").read_text())["copies"]["small.model"]
    assert moved / copy["file"] == _copy_of_vocabulary(moved)


@pytest.mark.slow
def test_an_evaluation_names_the_directory_of_relative_paths(
    moved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    line = error_line(mtfrun_here("eval", f"--model_dir={moved}", cwd=tmp_path))
    began = moved.parent / "project"
    assert f'no file matches "{began}/text.txt"' in line
    assert f"is relative to {began}, where the run began" in line
    with pytest.raises(InputError, match=r"where the run began; .* --gin\.TEXT_FILES="):
        mtfrun.load(str(moved)).evaluate()


def test_flags_have_paths_relative_to_the_working_directory(moved: pathlib.Path) -> None:
    flags = [f"--model_dir={moved}", "--gin.TEXT_FILES='text.txt'"]
    (metrics,) = succeeded(mtfrun_here("eval", *flags, cwd=moved.parent / "texts"))
    assert metrics["step"] == 2


@pytest.mark.slow
def test_the_configuration_has_paths_relative_to_where_the_run_began(
    copied: pathlib.Path, moved: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    record = json.loads((copied / "files.json").read_text())
    record["directory"] = str(moved.parent / "texts")
    (copied / "files.json").write_text(json.dumps(record))
    succeeded(mtfrun_here("eval", f"--model_dir={copied}", cwd=tmp_path))
    # A new run of the same configuration is also one of these files.
    flags = [f"--gin_file={copied / 'config.gin'}", f"--model_dir={tmp_path / 'new'}"]
    succeeded(mtfrun_here("train", *flags, cwd=tmp_path))
    text = (tmp_path / "new/config.gin").read_text()
    assert f"TEXT_FILES = ['{moved.parent / 'texts/text.txt'}']" in text


def _change(file: pathlib.Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


def _link(file: pathlib.Path) -> None:
    file.rename(file.parent.parent / "elsewhere.model")
    file.symlink_to(file.parent.parent / "elsewhere.model")


def _pipe(file: pathlib.Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (pathlib.Path.unlink, "No such file or directory"),
        (_change, "its content has changed"),
        (_link, "Not a regular file but a link"),
        (_pipe, "Not a regular file"),
    ],
)
def test_a_changed_copy_is_refused(
    damage: Callable[[pathlib.Path], None], problem: str, copied: pathlib.Path
) -> None:
    file = _copy_of_vocabulary(copied)
    damage(file)
    line = error_line(mtfrun_here("decode", f"--model_dir={copied}", PROMPT))
    assert f"{file}: {problem}: it is the run's copy of small.model, SHA-256 " in line


_COPY = {"file": "vocabulary/x", "sha256": "0"}
_RECORD: dict[str, object] = {"directory": "/", "run": "/", "copies": {}, "source_summary": None}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[" * 100_000,
        '{"directory": "/"}',
        *map(
            json.dumps,
            [
                {**_RECORD, "run": "a\0b"},
                {**_RECORD, "copies": {"small.model": {**_COPY, "file": "../../x"}}},
                {**_RECORD, "copies": {"small.model": {**_COPY, "file": "/etc/passwd"}}},
                {**_RECORD, "copies": {"small.model": {**_COPY, "sha256": None}}},
                {**_RECORD, "source_summary": 3},
            ],
        ),
    ],
)
def test_a_damaged_record_is_refused(content: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "files.json").write_text(content)
    with pytest.raises(ConfigError, match=rf"{tmp_path}/files\.json is damaged \("):
        RunFiles.of(tmp_path)


def _images(directory: pathlib.Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        (directory / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.full([16, 16, 3], 40 * number + i, np.uint8)
            Image.fromarray(pixels).save(directory / name / f"{i}.png")


@pytest.mark.slow
def test_a_classifier_keeps_the_names_of_its_classes(tmp_path: pathlib.Path) -> None:
    project, run = tmp_path / "project", tmp_path / "run"
    _images(project / "images", ["cat", "dog"])
    flags = [
        *("--gin_file=defaults.gin", "--gin_file=models/resnet.gin", "--gin.STAGE_SIZES=[1]"),
        *("--gin.WIDTHS=[4]", "--gin_file=data/image_folders.gin", "--gin.IMAGE_SIZE=8"),
        *("--gin.IMAGES_DIR={'train': 'images', 'validation': 'images'}", *TWO_STEPS[1:4]),
        *("--gin.BATCH_SIZE=4", "--gin.Evaluation.max_batches=1"),
    ]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={run}", cwd=project))
    picture = tmp_path / "picture.png"
    (project / "images/dog/0.png").rename(picture)
    shutil.rmtree(project / "images")
    (record,) = succeeded(
        mtfrun_here("decode", f"--model_dir={run}", f"--input={picture}", cwd=tmp_path)
    )
    assert {entry["label"] for entry in record["top"]} == {"cat", "dog"}
    line = error_line(mtfrun_here("eval", f"--model_dir={run}", cwd=tmp_path))
    assert f"is relative to {project}, where the run began" in line
    _images(tmp_path / "others", ["cat", "fox"])
    others = "--gin.IMAGES_DIR={'validation': 'others'}"
    line = error_line(mtfrun_here("eval", f"--model_dir={run}", others, cwd=tmp_path))
    assert "has 2 classes (cat, fox)" in line
    assert "the run was trained on 2 classes (cat, dog)" in line
    content = json.loads((run / "files.json").read_text())
    summaries: list[dict[str, object]] = [
        {"size": ["a", 8, 3]},
        {"size": [8, 8, 10**9]},
        {"label_names": [[]]},
    ]
    for summary in summaries:
        forged = {**content["source_summary"], **summary}
        (run / "files.json").write_text(json.dumps({**content, "source_summary": forged}))
        process = mtfrun_here("decode", f"--model_dir={run}", f"--input={picture}")
        assert "ImageData.trained_source has values that no source has" in error_line(process)
