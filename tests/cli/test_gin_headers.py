"""The headers of the shipped gin files: their commands run, their sizes are right."""

from __future__ import annotations

import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun.cli import report
from mtfrun.cli.build import ROOTS, build
from mtfrun.cli.configuration import config
from mtfrun.cli.configuration.checks import check_taken
from mtfrun.cli.configuration.files import SHIPPED, shipped_gin_files
from mtfrun.cli.flags import parse_flags
from mtfrun.data.silence import silent_tfds
from mtfrun.experiment import Training
from tests.cli.command import mtfrun


def _header(name: str) -> str:
    """Returns the comments before the first statement."""
    lines = pathlib.Path(SHIPPED, name).read_text().splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[:count])


def _command(name: str) -> list[str]:
    """Returns the arguments of the command in a header."""
    text = _header(name).split("Command:")[1].replace("\\\n", " ")
    program, *arguments = shlex.split(text)
    assert program == "mtfrun"
    return arguments


class _Placeholder(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder,  # type: ignore[misc]
    skip_registration=True,
):
    """One image with the size and the classes of a dataset that would have to be downloaded."""

    VERSION = tfds.core.Version("1.0.0")
    size: tuple[int | None, ...]
    classes: int

    def _info(self) -> tfds.core.DatasetInfo:
        """An image and a label."""
        image = tfds.features.Image(shape=(*self.size, 3))
        label = tfds.features.ClassLabel(num_classes=self.classes)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        """The splits that the commands evaluate on."""
        return {s: self._generate_examples() for s in ("train", "validation", "test")}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a black image."""
        rows, cols = (size or 7 for size in self.size)
        yield 0, {"image": np.zeros([rows, cols, 3], np.uint8), "label": 0}


class Cifar10(_Placeholder, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/cifar10."""

    name, size, classes = "cifar10", (32, 32), 10


class Imagenette(_Placeholder, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/imagenette: images of different sizes."""

    name, size, classes = "imagenette", (None, None), 10


class ImagenetResized(_Placeholder, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/imagenet_resized."""

    name, size, classes = "imagenet_resized", (64, 64), 1000
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="64x64", description="64x64")]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Directories of placeholders for data that a machine may lack, by macro or variable."""
    directory = tmp_path_factory.mktemp("data")
    with silent_tfds():
        for builder in (Cifar10, Imagenette, ImagenetResized):
            builder(data_dir=directory).download_and_prepare()
    for prefix in ("train", "t10k"):
        header = bytes([0, 0, 8, 3, *(0, 0, 0, 1, 0, 0, 0, 28), *(0, 0, 0, 28)])
        (directory / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(28 * 28))
        (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))
    return {"TFDS_DATA_DIR": str(directory), "IMAGES_DIR": str(directory)}


def _with_data(name: str, places: dict[str, str], patch: pytest.MonkeyPatch) -> list[str]:
    """Returns the dry run of a header's command, with placeholders for its data."""
    arguments = [*_command(name), "--dry_run"]
    text = " ".join(arguments)
    if "digits" in text or "images" in text or "cifar" in text:
        patch.setenv("TFDS_DATA_DIR", places["TFDS_DATA_DIR"])
    if "idx_images" in text or "fashion" in text:
        arguments.append(f"--gin.IMAGES_DIR='{places['IMAGES_DIR']}'")
    return arguments


def _built(arguments: Sequence[str]) -> Training:
    """Returns the objects of `train`, in the size of the command."""
    flags = parse_flags(list(arguments))
    bindings = config.parse(flags.gin_file, flags.bindings, roots=ROOTS)
    built = build()
    training = config.configured(Training, built.experiment, built.evaluation)
    check_taken(bindings, config.operative_config_text())
    return training


@pytest.mark.parametrize("name", shipped_gin_files())
def test_the_command_of_a_header_describes_its_run(
    name: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    training = _built(_with_data(name, places, monkeypatch))
    if training.experiment.mesh.is_distributed:
        # The slow test below compiles it.
        assert training.experiment.mesh.report(training.state.named_variables())
    else:
        assert "collectives     none: one device" in report.describe(training, "")


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in shipped_gin_files() if x.startswith("layouts/")])
def test_the_command_of_a_layout_has_a_dry_run(
    name: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = mtfrun(*_with_data(name, places, monkeypatch))
    assert process.returncode == 0, process.stderr.decode()


_SIZE = re.compile(r"([\d.]+)\smillion\s+parameters(?:\s+with\s+([\d,]+)\s+ids)?")


@pytest.mark.parametrize("name", [x for x in shipped_gin_files() if _SIZE.search(_header(x))])
def test_the_number_of_parameters_in_a_header_is_right(
    name: str, places: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = _SIZE.search(_header(name))
    assert size is not None
    millions, ids = size.groups()
    arguments = _with_data(name, places, monkeypatch)
    if ids is not None:
        # The vocabulary of bytes, padded to the number of ids.
        arguments.append(f"--gin.VOCABULARY_DIVISOR={ids.replace(',', '')}")
    model = _built(arguments).state.model
    trained = [v for v in model.named_variables().values() if v.trainable]
    count = sum(variable.shape.size for variable in trained) / 1e6
    digits = len(millions.partition(".")[2])
    assert f"{count:.{digits}f}" == millions


@pytest.mark.parametrize("name", shipped_gin_files())
def test_a_header_has_a_result_or_says_that_there_is_none(name: str) -> None:
    result = _header(name).split("Result:")[1].split("Command:")[0]
    says = r"\d|not measured|see |README|depends on|the same losses|does nothing|has one|trains a"
    assert re.search(says, result), result
