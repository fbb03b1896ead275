"""Prepared data that is hostile, damaged or cannot be written: one line, and no code is run."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import tensorflow_datasets as tfds

from mtfrun.data.sources.tfds_dataset import silent_tfds
from tests.cli.command import TINY, TWO_STEPS, error_line, full_disk, mtfrun_here, succeeded

FLAGS = [
    "--gin_file=defaults.gin",
    "--gin_file=models/lm_tiny.gin",
    "--gin_file=data/tfds.gin",
    "--gin.TFDS_NAME='letters'",
    *TINY,
    *TWO_STEPS,
    *("--gin.EVAL_SPLIT='test'", "--gin.EVAL_AT_START=False"),
]
EMBEDDED_FLAGS = [flag for flag in FLAGS if "tfds" not in flag.lower()] + [
    "--gin_file=data/python_docs.gin"
]


class Letters(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """A user's own dataset."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        """A text."""
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        """Two splits."""
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str]]]:
        for number in range(200):
            yield number, {"text": f"{split} {number}: the quick brown fox"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A directory with a prepared dataset of a user and one of ours, and a run."""
    directory = tmp_path_factory.mktemp("prepared")
    with silent_tfds():
        Letters(data_dir=directory).download_and_prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(directory))
        run = directory / "run"
        succeeded(mtfrun_here("train", *EMBEDDED_FLAGS, f"--model_dir={run}"))
    return directory


@pytest.fixture
def data_dir(
    prepared: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """A copy of the prepared datasets, which the command reads."""
    directory = tmp_path / "data"
    shutil.copytree(prepared, directory, ignore=shutil.ignore_patterns("run"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(directory))
    # Without a cache: the datasets are read to make one.
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "caches"))
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'was_run')!r}, 'w')\n")
    return directory


NAMED = {"pythonClassName": "hostile.Feature"}
IN_JSON = {
    "pythonClassName": "tensorflow_datasets.core.features.sequence_feature.Sequence",
    "jsonFeature": {"json": json.dumps({"feature": {"type": "hostile.Feature", "content": {}}})},
}
IN_OLD_PROTO = {
    "type": "tensorflow_datasets.core.features.sequence_feature.Sequence",
    "content": json.dumps({"feature": NAMED, "length": "-1"}),
    "proto_cls": "tensorflow_datasets.Sequence",
}
HOSTILE: dict[str, Mapping[str, Any]] = {
    "a field of the present": NAMED,
    "the field's other spelling": {"python_class_name": "hostile.Feature"},
    "a field of the past": {"type": "hostile.Feature", "content": {}},
    "JSON within JSON": IN_JSON,
    "an old description within a string": IN_OLD_PROTO,
    "a name that only begins like TFDS": {"pythonClassName": "tensorflow_datasets_of_mine.X"},
}


def _features(directory: pathlib.Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the description of the dataset's features with one more."""
    features = json.loads((directory / "features.json").read_text())
    features["featuresDict"]["features"]["more"] = described
    return features


QUICK_KINDS = ("a field of the present", "JSON within JSON")


@pytest.mark.parametrize(
    "kind", [pytest.param(x, marks=[] if x in QUICK_KINDS else pytest.mark.slow) for x in HOSTILE]
)
def test_no_class_but_those_of_tfds_is_imported_from_a_features_file(
    kind: str, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = data_dir / "letters/1.0.0"
    features = _features(directory, HOSTILE[kind])
    if "type" in HOSTILE[kind]:  # the old format has only fields of the old format
        content = {"more": HOSTILE[kind]}
        name = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
        features = {"type": name, "content": content}
    (directory / "features.json").write_text(json.dumps(features))
    line = error_line(mtfrun_here("train", *FLAGS, f"--model_dir={tmp_path}/run"))
    assert f"{directory}/features.json names the feature class" in line
    assert "'hostile.Feature'" in line or "'tensorflow_datasets_of_mine.X'" in line
    assert not (tmp_path / "was_run").exists()


def test_no_class_but_those_of_tfds_is_imported_from_an_info_file(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    directory = data_dir / "letters/1.0.0"
    info = json.loads((directory / "dataset_info.json").read_text())
    info["features"] = _features(directory, NAMED)
    (directory / "dataset_info.json").write_text(json.dumps(info))
    line = error_line(mtfrun_here("train", *FLAGS, f"--model_dir={tmp_path}/run"))
    assert f"{directory}/dataset_info.json names the feature class 'hostile.Feature'" in line
    assert not (tmp_path / "was_run").exists()


def _cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
    "cut off": _cut,
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": lambda path: path.unlink(),
}
RECORDS, INFO, FEATURES = "*-train.tfrecord*", "dataset_info.json", "features.json"


# The first three are tested by default.
DAMAGED = [
    *[("letters", RECORDS, "cut off"), ("letters", INFO, "gone"), ("python_docs", RECORDS, "gone")],
    *(("letters", RECORDS, damage) for damage in ("empty", "zeros", "gone", "another bit")),
    *(("letters", file, "cut off") for file in (INFO, FEATURES)),
]


@pytest.mark.parametrize(
    ("of", "files", "damage"),
    [*DAMAGED[:3], *(pytest.param(*x, marks=pytest.mark.slow) for x in DAMAGED[3:])],
)
def test_damaged_data_is_one_line_that_says_what_to_delete(
    of: str, files: str, damage: str, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (path,) = (data_dir / of).rglob(files)
    (_flip if damage == "another bit" else DAMAGES[damage])(path)
    flags = FLAGS if of == "letters" else EMBEDDED_FLAGS
    line = error_line(mtfrun_here("train", *flags, f"--model_dir={tmp_path}/run"))
    assert line.startswith(f"mtfrun: error: the prepared data in {path.parent} cannot be read: ")
    assert f"delete {path.parent} and " in line
    remedy = "it is prepared again" if of == "python_docs" else "tfds build letters"
    assert line.endswith(remedy)


def test_damage_in_the_evaluation_split_is_one_line_of_eval(
    prepared: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    shutil.copytree(prepared / "run", tmp_path / "run")
    (path,) = (data_dir / "python_docs").rglob("*-test.tfrecord*")
    _cut(path)
    line = error_line(mtfrun_here("eval", f"--model_dir={tmp_path}/run"))
    assert f"delete {path.parent} and it is prepared again" in line


@pytest.mark.slow
def test_a_full_data_directory_is_one_line_and_incomplete_data_is_not_used(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_dir = tmp_path / "data"
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    train = ["train", *EMBEDDED_FLAGS, f"--model_dir={tmp_path}/run"]
    with full_disk(1 << 14):
        line = error_line(mtfrun_here(*train))
    assert line == (
        f"mtfrun: error: cannot prepare python_docs in {data_dir}: File too large; "
        "make room there, give a writable data_dir or set TFDS_DATA_DIR"
    )
    assert not list(data_dir.rglob("*.tfrecord*"))
    succeeded(mtfrun_here(*train))
