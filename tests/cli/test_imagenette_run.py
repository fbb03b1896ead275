"""The commands on images of different sizes: runs/imagenette.gin on a stand-in, and folders."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mtfrun.data.sources.tfds_dataset import silent_tfds
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.data.images.photos import photo, save_folders

LABELS = [f"n{number:08}" for number in range(10)]
SIZES = {"train": 24, "validation": 11}
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
        """Yields images whose shorter side is 160 pixels, as in the dataset."""
        for i in range(SIZES[split]):
            rows, cols = (160, 160 + 7 * i) if i % 2 else (160 + 5 * i, 160)
            yield f"{split}_{i:05}", {"image": photo(rows, cols, i), "label": i % len(LABELS)}


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
    expected = [LABELS[i % 10] for i in range(SIZES["validation"])]
    assert sorted(line["true_label"] for line in lines) == sorted(expected)


# By default test_self_contained_runs.py trains on folders, and test_images_end_to_end.py compares
# the labels of a split with those of its files.
@pytest.mark.slow
def test_folders_are_trained_on_and_single_files_classified(tmp_path: pathlib.Path) -> None:
    save_folders(tmp_path / "train", ["cat", "dog"], 6)
    save_folders(tmp_path / "val", ["cat", "dog"], 5)
    directories = {"train": str(tmp_path / "train"), "validation": str(tmp_path / "val")}
    files = [f"--gin_file={name}.gin" for name in ("defaults", "models/resnet")]
    flags = [*files, "--gin_file=data/image_folders.gin", f"--gin.IMAGES_DIR={directories}", *TINY]
    model_dir = f"--model_dir={tmp_path / 'run'}"
    process = mtfrun_here("train", *flags, model_dir)
    assert process.returncode == 0, process.stderr.decode()
    of_split = succeeded(mtfrun_here("decode", model_dir, "--input=split:validation"))
    assert [line["true_label"] for line in of_split] == ["cat"] * 5 + ["dog"] * 5
    paths = ",".join(f"{tmp_path}/val/{name}" for name in ("cat", "dog"))
    of_files = succeeded(mtfrun_here("decode", model_dir, f"--input={paths}"))
    for one, other in zip(of_split, of_files, strict=True):
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], rel=1e-5)
    Image.fromarray(photo(30, 30)).save(tmp_path / "train" / "cat" / "new.png")
    line = error_line(mtfrun_here("train", *flags, model_dir, "--gin.TRAIN_STEPS=3"))
    assert "the data have changed since" in line
