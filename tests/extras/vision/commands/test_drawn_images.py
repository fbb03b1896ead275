"""Images that are drawn, of classes and of rows that are kept."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

import mtfrun
from mtfrun.errors import InputError
from tests.cli.command import error_line, mtfrun_here

SMALL = [
    *("--gin.NUM_LAYERS=1", "--gin.D_MODEL=16", "--gin.D_FF=16", "--gin.NUM_HEADS=2"),
    *("--gin.D_KV=8", "--gin.TRAIN_STEPS=3", "--gin.EVAL_AT_START=False"),
]


def _train(tmp_path_factory: pytest.TempPathFactory, *flags: str) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        files = ["--gin_file=extras/vision/runs/digit_pixels.gin", *flags]
        process = mtfrun_here("train", *files, *SMALL, f"--model_dir={folder / 'run'}")
    assert process.returncode == 0, process.stderr.decode()
    assert b"bits_per_byte" in process.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _train(tmp_path_factory)


@pytest.fixture(scope="module")
def trained_with_labels(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _train(tmp_path_factory, "--gin_file=extras/vision/models/class_conditional.gin")


def _decode(trained: pathlib.Path, *flags: str) -> list[str]:
    return ["decode", f"--model_dir={trained}", *flags]


@pytest.mark.slow
def test_images_are_completed_below_the_rows_that_are_kept(
    trained: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [3, 8, 8]).astype(np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    flags = [f"--input={tmp_path}", f"--output={tmp_path / 'drawn.jsonl'}"]
    process = mtfrun_here(*_decode(trained, *flags, "--num_outputs=2", "--gin.KEPT_ROWS=5"))
    assert process.returncode == 0, process.stderr.decode()
    lines = (tmp_path / "drawn.jsonl").read_text().splitlines()
    assert [json.loads(line)["images"] for line in lines] == [
        [f"{i}_{j}.png" for j in range(2)] for i in range(3)
    ]
    assert len(list((tmp_path / "drawn_files").iterdir())) == 6
    drawn = [
        [np.asarray(Image.open(tmp_path / "drawn_files" / f"{i}_{j}.png")) for j in range(2)]
        for i in range(3)
    ]
    for image, outputs in zip(images, drawn, strict=True):
        for output in outputs:
            np.testing.assert_array_equal(output[:5], image[:5])
        assert np.any(outputs[0][5:] != outputs[1][5:])


@pytest.mark.slow
def test_what_cannot_be_drawn_is_one_line(trained: pathlib.Path, tmp_path: pathlib.Path) -> None:
    split, output = "--input=split:test", f"--output={tmp_path / 'x.jsonl'}"
    lines = {
        "give --output=FILE.jsonl": _decode(trained, split),
        "kept_rows is 8: it must be an integer of at least 0 and at most 7": [
            *_decode(trained, split, output),
            "--gin.KEPT_ROWS=8",
        ],
        "the model reads images: give --input=FILE": _decode(trained, "--prompt=a", output),
        "does not score pairs": ["score", f"--model_dir={trained}", split, output],
    }
    for message, command in lines.items():
        assert message in error_line(mtfrun_here(*command))
    assert not list(tmp_path.iterdir())
    (tmp_path / "x_files").touch()
    assert "cannot write " in error_line(mtfrun_here(*_decode(trained, split, output)))
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.slow
def test_images_are_drawn_of_the_classes_of_the_input(
    trained_with_labels: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    drawn = []
    mesh = ["--gin.MESH_SHAPE='data:2,model:2'", "--gin.LAYOUT='batch:data;length:model'"]
    for name, labels, layout in (("a", "3\n7\n", []), ("b", "3\n8\n", []), ("c", "3\n7\n", mesh)):
        (tmp_path / f"{name}.txt").write_text(labels)
        output = tmp_path / f"{name}.jsonl"
        flags = [f"--input={tmp_path / name}.txt", f"--output={output}", *layout]
        process = mtfrun_here(*_decode(trained_with_labels, *flags))
        assert process.returncode == 0, process.stderr.decode()
        lines = [json.loads(line) for line in output.read_text().splitlines()]
        assert [line["label"] for line in lines] == labels.split()
        files = [tmp_path / f"{name}_files" / line["images"][0] for line in lines]
        drawn.append([np.asarray(Image.open(file)) for file in files])
    # Draws depend on the line of the input: those of the second differ by the class alone.
    np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
    assert np.any(drawn[0][1] != drawn[1][1])
    np.testing.assert_array_equal(drawn[2], drawn[0])


@pytest.mark.slow
def test_logits_of_images_need_classes_that_there_are(trained_with_labels: pathlib.Path) -> None:
    run = mtfrun.load(trained_with_labels)
    targets = np.zeros([2, 64], np.int32)
    logits = run.logits({"targets": targets, "labels": [3, 7]})
    assert logits.shape == (2, 64, 256)
    assert np.any(logits[0] != logits[1])
    with pytest.raises(InputError, match="must be classes, integers from 0, below 10"):
        run.logits({"targets": targets, "labels": [3, 10]})


@pytest.mark.slow
def test_the_images_of_a_split_have_their_labels(
    trained_with_labels: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "drawn.jsonl"
    flags = ["--input=split:test", f"--output={output}", "--gin.KEPT_ROWS=7"]
    process = mtfrun_here(*_decode(trained_with_labels, *flags))
    assert process.returncode == 0, process.stderr.decode()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert {line["label"] for line in lines} == set("0123456789")
    assert [line["index"] for line in lines] == list(range(377))


@pytest.mark.slow
def test_a_class_that_cannot_be_drawn_is_one_line(
    trained_with_labels: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = f"--output={tmp_path / 'x.jsonl'}"
    process = mtfrun_here(*_decode(trained_with_labels, "--prompt=seven", output))
    assert '"seven" is none of the 10 classes 0, 1, 2' in error_line(process)
    flags = ["--prompt=7", output, "--gin.KEPT_ROWS=2"]
    process = mtfrun_here(*_decode(trained_with_labels, *flags))
    assert "kept_rows=2 for inputs that are labels" in error_line(process)
    assert not list(tmp_path.iterdir())
