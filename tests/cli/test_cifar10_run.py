"""The run runs/cifar10.gin, on a small dataset with the features of CIFAR-10."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun.data.sources.tfds_dataset import silent_tfds
from tests.cli.command import error_line, mtfrun_here, succeeded

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
