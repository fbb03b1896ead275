"""The headers of the shipped gin files have one form, their commands run, their sizes are right."""

from __future__ import annotations

import functools
import pathlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.configuration.checks import check_taken
from mtfrun.configuration.files import SHIPPED, shipped_gin_files
from mtfrun.data.sources.tfds_dataset import silent_tfds
from mtfrun.experiment import Training
from mtfrun.experiment.printed_summary import variable_lines
from mtfrun.experiment.runs.opening import ROOTS, build
from tests.cli.command import mtfrun
from tests.cli.small_vocabulary import FILES_WITH_SUBWORDS, flag_of_small_vocabulary

FILES = shipped_gin_files()
# The files of a training; the tests of sweeps build their rows, adapters and teachers need a run.
NO_TRAININGS = ("extras/sweeps/", "adapters/", "extras/distillation/")
# Recipes of tasks have the same macros and models: tests/configuration/test_recipes_of_tasks.py.
SIMILAR = {n for n in FILES if n.startswith("extras/t5/tasks/")} - {
    "extras/t5/tasks/glue_cola.gin",
    "extras/t5/tasks/glue.gin",
}
OF_TRAININGS = [n for n in FILES if not n.startswith(NO_TRAININGS) and n not in SIMILAR]
COMPILED = [
    *("data/delimited_denoising.gin", "data/image_folders.gin", "data/pairs.gin"),
    *("defaults.gin", "layouts/2x2.gin", "models/encoder_only.gin", "models/lm_tiny.gin"),
    *("models/moe_2d_tiny.gin", "models/prefix_lm.gin", "models/t5.1.1.tiny.gin"),
]
# The fields of a header, in their order.
FIELDS = ["Paper", "Cost", "Result", "Smaller", "Commonly overridden", "Command"]
OPTIONAL = {"Paper", "Result", "Smaller"}
SMALLER = re.compile(r"(runs/\w+\.gin), measured in (docs/\w+\.md)")
# "NAME, NAME: what they mean"; a second line is indented further.
OVERRIDDEN = re.compile(r"^ {5}([A-Z_]+(?:, [A-Z_]+)*): \S.*(?:\n {9}\S.*)*$", re.MULTILINE)
# A number, what it is, and the conditions under which it was measured.
MEASURED = re.compile(r"\d[\d.,]* .*\([^()]+\)")
# Or the row of a table that the sweep of a model of this kind has.
ROW = re.compile(r'(?:\d.*?[:;] )?(?:\w+ of )?row "([^"]+)" of (docs/results/\w+\.md)')
SIZE = re.compile(r"([\d.]+) million parameters(?: with a vocabulary of ([\d,]+))?")


def _header(name: str) -> str:
    lines = pathlib.Path(SHIPPED, name).read_text().splitlines()
    count = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#") for line in lines[:count])


@pytest.mark.parametrize(
    "name", ["runs/quickstart.gin", "runs/language_model.gin", "runs/moe_quickstart.gin"]
)
def test_the_warm_up_of_a_short_quickstart_is_a_share_of_its_steps(name: str) -> None:
    (share,) = re.findall(r"^WARMUP_STEPS = (\S+)", pathlib.Path(SHIPPED, name).read_text(), re.M)
    assert float(share) < 0.5


def _fields(name: str) -> dict[str, str]:
    parts = re.split(rf"^ ({'|'.join(FIELDS)}):", _header(name), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def _command(name: str) -> list[str]:
    program, *arguments = shlex.split(_fields(name)["Command"].replace("\\\n", " "))
    assert program == "mtfrun"
    return arguments


# TFDS has no types.
class _StandIn(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg,misc]
    """An image with the size and the classes of a dataset that would have to be downloaded."""

    VERSION = tfds.core.Version("1.0.0")
    size: tuple[int | None, ...]
    classes: int

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(*self.size, 3))
        label = tfds.features.ClassLabel(num_classes=self.classes)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {s: self._generate_examples() for s in ("train", "validation", "test")}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        rows, cols = (size or 7 for size in self.size)
        yield 0, {"image": np.zeros([rows, cols, 3], np.uint8), "label": 0}


class Cifar10(_StandIn, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/cifar10."""

    name, size, classes = "cifar10", (32, 32), 10


class Imagenette(_StandIn, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/imagenette: every image has its own size."""

    name, size, classes = "imagenette", (None, None), 10
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="160px-v2", description="160px")]


class ImagenetResized(_StandIn, skip_registration=True):  # type: ignore[call-arg]
    """https://www.tensorflow.org/datasets/catalog/imagenet_resized."""

    name, size, classes = "imagenet_resized", (64, 64), 1000
    BUILDER_CONFIGS: ClassVar = [tfds.core.BuilderConfig(name="64x64", description="64x64")]


@pytest.fixture(scope="module")
def image_directory(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("data")
    with silent_tfds():
        for builder in (Cifar10, Imagenette, ImagenetResized):
            builder(data_dir=directory).download_and_prepare()
    (directory / "folders" / "cat").mkdir(parents=True)
    (directory / "folders" / "dog").mkdir()
    for prefix in ("train", "t10k"):
        header = bytes([0, 0, 8, 3, *(0, 0, 0, 1, 0, 0, 0, 28), *(0, 0, 0, 28)])
        (directory / f"{prefix}-images-idx3-ubyte").write_bytes(header + bytes(28 * 28))
        (directory / f"{prefix}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))
    return str(directory)


def _with_data(name: str, image_directory: str, patch: pytest.MonkeyPatch) -> list[str]:
    arguments = [*_command(name), "--dry_run"]
    text = " ".join(arguments)
    if any(word in text for word in ("digits", "images", "cifar", "imagenette")):
        patch.setenv("TFDS_DATA_DIR", image_directory)
    if "idx_images" in text or "fashion" in text:
        arguments.append(f"--gin.IMAGES_DIR='{image_directory}'")
    if name in FILES_WITH_SUBWORDS:
        arguments.append(flag_of_small_vocabulary(pathlib.Path(image_directory)))
    if "image_folders" in text:
        arguments.append(f"--gin.IMAGES_DIR='{image_directory}/folders'")
    return arguments


def _built(arguments: Sequence[str]) -> Training:
    flags = parse_flags(list(arguments))
    bindings = config.parse(flags.gin_file, flags.bindings, roots=ROOTS)
    training = config.build(Training, *build())
    check_taken(bindings, config.operative_config_text())
    return training


def _check_each(names: Iterable[str], check: Callable[[str], None]) -> None:
    """Raises one error about all files that fail a check; a test for each file takes seconds."""
    failures = []
    for name in names:
        try:
            check(name)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


def _check_header(name: str) -> None:
    header = _header(name)
    assert re.match(r" [A-Z].*[.:?]\n", header), "the first line says what it is"
    fields = _fields(name)
    assert list(fields) == [field for field in FIELDS if field not in OPTIONAL - fields.keys()]
    for field in fields.keys() - {"Commonly overridden"}:
        assert re.match(r" +\S", fields[field])
        assert re.search(rf"^ {field}: {{{10 - len(field)}}}\S", header, re.MULTILINE), field
        assert not fields[field].endswith("."), "fields are phrases"


def test_a_header_says_what_the_file_is_and_has_all_fields() -> None:
    _check_each(FILES, _check_header)


def _check_result(name: str) -> None:
    result = " ".join(_fields(name)["Result"].split())
    if row := ROW.fullmatch(result):
        escaped = row[1].replace("_", r"\_")
        assert f"\n| {escaped} | " in pathlib.Path(SHIPPED, "..", row[2]).read_text()
    else:
        assert MEASURED.fullmatch(result), result


def test_a_result_is_a_number_with_its_conditions_or_the_row_of_a_table() -> None:
    _check_each([name for name in FILES if "Result" in _fields(name)], _check_result)


def _check_smaller_run(name: str) -> None:
    fields = _fields(name)
    if "for accelerators" in " ".join(fields["Cost"].split()):
        assert "Smaller" in fields
    if "Smaller" in fields:
        smaller = SMALLER.fullmatch(fields["Smaller"].strip())
        assert smaller is not None
        run, page = smaller.groups()
        assert "Result" in _fields(run)
        assert f"| `{run}` |" in pathlib.Path(SHIPPED, "..", page).read_text()


def test_what_needs_accelerators_names_a_smaller_run_with_a_result() -> None:
    _check_each([name for name in FILES if not name.startswith("layouts/")], _check_smaller_run)


def _includes(name: str) -> list[str]:
    text = pathlib.Path(SHIPPED, name).read_text()
    names = re.findall(r'^include "(.*)"$', text, re.MULTILINE)
    return [*names, *(nested for included in names for nested in _includes(included))]


def test_a_run_includes_at_most_three_files() -> None:
    numbers = {name: len(_includes(name)) for name in FILES if name.startswith("runs/")}
    assert {name: number for name, number in numbers.items() if number > 3} == {}


@functools.cache
def _built_with_macros(name: str, image_directory: str) -> tuple[Training, set[str]]:
    with pytest.MonkeyPatch.context() as patch:
        training = _built(_with_data(name, image_directory, patch))
    # A run that is trained with it can be read without --gin_allow_imports.
    assert "--gin_allow_imports" not in config.config_text()
    return training, set(re.findall(r"^([A-Z_]+) = ", config.config_text(), re.MULTILINE))


@pytest.mark.parametrize("name", OF_TRAININGS)
def test_what_is_commonly_overridden_are_macros_of_the_run(name: str, image_directory: str) -> None:
    text = _fields(name)["Commonly overridden"].strip("\n")
    lines = list(OVERRIDDEN.finditer(text))
    assert "\n".join(line[0] for line in lines) == text
    overridden = [macro for line in lines for macro in line[1].split(", ")]
    _, macros = _built_with_macros(name, image_directory)
    assert overridden and set(overridden) <= macros
    assert len(overridden) == len(set(overridden))


def _check_blocks(name: str) -> None:
    margin = r"include .*|from .* import \w+|[A-Z_0-9]+ = .*|[\w./]+:|#.*|[\])}]|"
    lines = pathlib.Path(SHIPPED, name).read_text().splitlines()
    for line in lines:
        assert line.startswith("    ") or re.fullmatch(margin, line), line
    blocks = [line for line in lines if re.fullmatch(r"[\w./]+:", line)]
    assert len(blocks) == len(set(blocks)), "one block for a class"


def test_bindings_stand_in_blocks() -> None:
    _check_each(FILES, _check_blocks)


# Their programs are compiled; the models of the others are built by the test above.
@pytest.mark.parametrize(
    "name", [x for x in OF_TRAININGS if x.startswith("runs/") or x in COMPILED]
)
def test_the_command_of_a_header_describes_its_run(
    name: str, image_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    training, _ = _built_with_macros(name, image_directory)
    _with_data(name, image_directory, monkeypatch)  # which the description may read
    assert variable_lines(training.experiment.mesh, training.state.named_variables())


# A mesh of 2 x 2 splits what each of these splits.
OF_2X2 = {f"layouts/{x}.gin" for x in ("single", "data_parallel_2", "model_parallel_2")}


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in FILES if x.startswith("layouts/") and x not in OF_2X2])
def test_the_command_of_a_layout_compiles(
    name: str, image_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [x for x in _with_data(name, image_directory, monkeypatch) if x != "--dry_run"]
    one_layer = ["--gin.NUM_LAYERS=1"] * ("quickstart" in " ".join(arguments))
    process = mtfrun("plan", *arguments[1:], *one_layer)
    assert process.returncode == 0, process.stderr.decode()


@pytest.mark.parametrize(
    "name", [x for x in OF_TRAININGS if SIZE.search(" ".join(_header(x).split()))]
)
def test_the_number_of_parameters_in_a_header_is_right(
    name: str, image_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = SIZE.search(" ".join(_header(name).split()))
    assert size is not None
    millions, vocabulary_size = size.groups()
    arguments = _with_data(name, image_directory, monkeypatch)
    if vocabulary_size is not None:
        # The bytes' vocabulary, padded to that size.
        arguments.append(f"--gin.VOCABULARY_DIVISOR={vocabulary_size.replace(',', '')}")
    model = _built(arguments).state.model
    trained = [v for v in model.named_variables().values() if v.trainable]
    count = sum(variable.shape.size for variable in trained) / 1e6
    digits = len(millions.partition(".")[2])
    assert f"{count:.{digits}f}" == millions
