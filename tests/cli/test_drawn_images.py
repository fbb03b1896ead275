"""Runs of drawn images, CIFAR-10 and Imagenette."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import mtfrun
from mtfrun.data.sources.tfds_dataset import silent_tfds
from mtfrun.errors import InputError
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.data.images.photos import photo

SMALL = [
    *("--gin.NUM_LAYERS=1", "--gin.D_MODEL=16", "--gin.D_FF=16", "--gin.NUM_HEADS=2"),
    *("--gin.D_KV=8", "--gin.TRAIN_STEPS=3", "--gin.EVAL_AT_START=False"),
]


def _train(tmp_path_factory: pytest.TempPathFactory, *flags: str) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("pixels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(tmp_path_factory.mktemp("tfds")))
        files = ["--gin_file=runs/digit_pixels.gin", *flags]
        process = mtfrun_here("train", *files, *SMALL, f"--model_dir={folder / 'run'}")
    assert process.returncode == 0, process.stderr.decode()
    assert b"bits_per_byte" in process.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _train(tmp_path_factory)


@pytest.fixture(scope="module")
def trained_with_labels(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return _train(tmp_path_factory, "--gin_file=models/class_conditional.gin")


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
    process = mtfrun_here(*_decode(trained, "--input=split:test"))
    assert "give --output=FILE.jsonl" in error_line(process)
    output = f"--output={tmp_path / 'x.jsonl'}"
    process = mtfrun_here(*_decode(trained, "--input=split:test", output, "--gin.KEPT_ROWS=8"))
    assert "kept_rows=8 leaves nothing to draw of 8 rows" in error_line(process)
    process = mtfrun_here(*_decode(trained, "--prompt=a", output))
    assert "give images with --input=FILE" in error_line(process)
    process = mtfrun_here("score", f"--model_dir={trained}", "--input=split:test", output)
    assert "ImageSampling scores no pairs" in error_line(process)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x_files").touch()
    process = mtfrun_here(*_decode(trained, "--input=split:test", output))
    assert "cannot write into" in error_line(process)
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
    assert "kept_rows=2 are rows of images, and the inputs are labels" in error_line(process)
    assert not list(tmp_path.iterdir())


LABELS = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]
SIZES = {"train": 40, "test": 11}


# TFDS has one of the name, which downloads.
class Cifar10(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder,  # type: ignore[misc]
    skip_registration=True,
):
    """Noise in the form of CIFAR-10: 32x32 pixels of three channels, ten classes."""

    VERSION = tfds.core.Version("3.0.2")

    def _info(self) -> tfds.core.DatasetInfo:
        """The features of TFDS's own cifar10."""
        features = {
            "id": tfds.features.Text(),
            "image": tfds.features.Image(shape=(32, 32, 3)),
            "label": tfds.features.ClassLabel(names=LABELS),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        """Its splits, much smaller."""
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields noise that is brighter the larger the label."""
        rng = np.random.default_rng(len(split))
        for i in range(SIZES[split]):
            label = i % len(LABELS)
            image = rng.integers(0, 100, [32, 32, 3]) + 15 * label
            name = f"{split}_{i:05}"
            yield name, {"id": name, "image": image.astype(np.uint8), "label": label}


def test_the_run_says_what_to_do_where_there_is_no_dataset(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    flags = ["--gin_file=runs/cifar10.gin", f"--model_dir={tmp_path / 'run'}"]
    line = error_line(mtfrun_here("train", *flags))
    assert f'TFDS dataset "cifar10" is not prepared in {tmp_path / "tfds"}' in line
    assert f"tfds build cifar10 --data_dir={tmp_path / 'tfds'}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_run_trains_evaluates_and_classifies(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with silent_tfds():
        Cifar10(data_dir=tmp_path / "tfds").download_and_prepare()
    flags = ["--gin_file=runs/cifar10.gin", "--gin.TRAIN_STEPS=3", "--gin.BATCH_SIZE=8"]
    smaller = ["--gin.STAGE_SIZES=[1, 1, 1]", "--gin.ITERATIONS_PER_LOOP=2"]
    recipe = ["--gin.MIXUP_ALPHA=0.2", "--gin.LABEL_SMOOTHING=0.1", "--gin.AVERAGE_DECAY=0.9"]
    model_dir = f"--model_dir={tmp_path / 'run'}"
    process = mtfrun_here("train", *flags, *smaller, *recipe, model_dir)
    assert process.returncode == 0, process.stderr.decode()
    (metrics,) = succeeded(mtfrun_here("eval", model_dir))
    assert metrics["step"] == 3 and np.isfinite(metrics["loss"])
    lines = succeeded(mtfrun_here("decode", model_dir, "--input=split:test"))
    assert [line["true_label"] for line in lines].count("airplane") == 2
    assert {line["label"] for line in lines} <= set(LABELS) and len(lines) == SIZES["test"]


IMAGENETTE_LABELS = [f"n{number:08}" for number in range(10)]
IMAGENETTE_SIZES = {"train": 24, "validation": 11}
TINY = [
    "--gin.STAGE_SIZES=[1, 1]",
    "--gin.WIDTHS=[2, 2]",
    "--gin.IMAGE_SIZE=16",
    "--gin.BATCH_SIZE=8",
    "--gin.TRAIN_STEPS=2",
    "--gin.ITERATIONS_PER_LOOP=2",
]


# TFDS has one of the name, which downloads.
class Imagenette(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder,  # type: ignore[misc]
    skip_registration=True,
):
    """Smooth noise in the form of imagenette: JPEG files of different sizes, ten classes."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="160px-v2", description="160px")]

    def _info(self) -> tfds.core.DatasetInfo:
        """The features of TFDS's own imagenette."""
        features = {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=IMAGENETTE_LABELS),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        """Its splits, much smaller."""
        return {split: self._generate_examples(split) for split in IMAGENETTE_SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields images whose shorter side is 160 pixels, as in the dataset."""
        for i in range(IMAGENETTE_SIZES[split]):
            rows, cols = (160, 160 + 7 * i) if i % 2 else (160 + 5 * i, 160)
            yield (
                f"{split}_{i:05}",
                {"image": photo(rows, cols, i), "label": i % len(IMAGENETTE_LABELS)},
            )


@pytest.mark.slow
def test_imagenette_is_trained_on_evaluated_and_classified(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    with silent_tfds():
        Imagenette(data_dir=tmp_path / "tfds").download_and_prepare()
    model_dir = f"--model_dir={tmp_path / 'run'}"
    recipe = ["--gin.CUTMIX_ALPHA=1.0", "--gin.MIXUP_ALPHA=0.2", "--gin.CUTOUT=4"]
    process = mtfrun_here("train", "--gin_file=runs/imagenette.gin", *TINY, *recipe, model_dir)
    assert process.returncode == 0, process.stderr.decode()
    (metrics,) = succeeded(mtfrun_here("eval", model_dir))
    assert metrics["step"] == 2 and np.isfinite(metrics["loss"])
    lines = succeeded(mtfrun_here("decode", model_dir, "--input=split:validation"))
    expected = [IMAGENETTE_LABELS[i % 10] for i in range(IMAGENETTE_SIZES["validation"])]
    assert sorted(line["true_label"] for line in lines) == sorted(expected)
