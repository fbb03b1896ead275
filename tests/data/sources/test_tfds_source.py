"""TFDS datasets as text sources."""

from __future__ import annotations

import dataclasses
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from absl import logging

from mtfrun.data import DataError, Tfds
from mtfrun.data.sources.tfds_dataset import silent_tfds

TEXT_FEATURES = "answers/text/0, label, names/0, pair/en, pair/score, review"
LINES = [b"first\r\n", b"", b"nul\x00\xc3\xa9"]


class PreparedReviews(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """A dataset with a text, a label and an image, like any that a user has prepared."""

    VERSION = tfds.core.Version("2.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "review": tfds.features.Text(),
            "label": tfds.features.ClassLabel(num_classes=2),
            "answers": tfds.features.Sequence(
                {"text": tfds.features.Text(), "start": tfds.features.Scalar(np.int32)}
            ),
            "names": tfds.features.Sequence(tfds.features.Text(), length=2),
            "pair": {"en": tfds.features.Text(), "score": tfds.features.Scalar(np.float32)},
            "image": tfds.features.Image(shape=(2, 2, 1)),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, object]]]:
        for key, line in enumerate(LINES):
            answers = [{"text": f"answer {i}", "start": i} for i in range(key)]
            pair = {"en": f"en {key}", "score": 0.1}
            image = np.zeros([2, 2, 1], np.uint8)
            yield (
                key,
                {
                    **{"review": line, "label": key % 2, "image": image},
                    **{"answers": answers, "names": ["Bob", f"Tom {key}"], "pair": pair},
                },
            )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("tfds"))
    with silent_tfds():
        PreparedReviews(data_dir=directory).download_and_prepare()
    return directory


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the test fail on every connection and every name lookup of Python."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"network used: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    # TFDS's bucket is accessed from C++, without Python's sockets. Every lookup there begins with
    # `exists`, unless the bucket is disabled.
    for access in ("exists", "download_gcs_folder"):
        monkeypatch.setattr(tfds.core.utils.gcs_utils, access, refuse)


def texts(source: Tfds, split: str = "train", field: str = "text") -> list[bytes]:
    return [example.fields[field] for example in source.examples(split)]


def message(source: Tfds, split: str = "train") -> str:
    with pytest.raises(DataError) as error:
        list(source.examples(split))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["prepared_reviews", "prepared_reviews:2.0.0"])
def test_any_prepared_dataset_is_a_source_byte_for_byte(data_dir: str, name: str) -> None:
    source = Tfds(name, {"text": "review"}, data_dir=data_dir)
    assert source.splits == ("train",)
    assert texts(source) == LINES
    assert texts(source, "train[1:]") == LINES[1:]


def test_embedded_datasets_are_prepared_on_first_use_in_the_directory_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = Tfds("python_docs")
    assert source.splits == ("train", "validation", "test")
    assert len(b"".join(texts(source))) > len(b"".join(texts(source, "validation"))) > 10_000
    assert (tmp_path / "python_docs").is_dir()
    assert capfd.readouterr().out == ""


def test_the_argument_takes_precedence_over_the_variable(
    tmp_path: Path, data_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "unused"))
    assert Tfds("prepared_reviews", {"text": "review"}, data_dir=data_dir).splits == ("train",)
    assert not (tmp_path / "unused").exists()


def test_a_name_that_would_need_a_download_says_how_to_get_it(data_dir: str) -> None:
    assert message(Tfds("glue", data_dir=data_dir)) == (
        f'TFDS dataset "glue" is not prepared in {data_dir}. '
        "Without a download there are number_words, prepared_reviews, python_docs, python_source; "
        f"to add it, run where there is a network: tfds build glue --data_dir={data_dir}"
    )


@pytest.mark.parametrize(
    ("name", "nearest"), [("python_doc", "python_docs"), ("prepared_review", "prepared_reviews")]
)
def test_the_error_of_a_misspelt_name_suggests_the_nearest(
    data_dir: str, name: str, nearest: str
) -> None:
    assert f"did you mean '{nearest}'?" in message(Tfds(name, data_dir=data_dir))


@pytest.mark.parametrize("name", ["", "a b", "../etc", "x/y/z:1"])
def test_a_malformed_name_is_an_error_of_one_line(data_dir: str, name: str) -> None:
    assert f'TFDS dataset "{name}" is not prepared' in message(Tfds(name, data_dir=data_dir))


def test_an_unknown_split_or_slice_is_an_error_of_one_line(data_dir: str) -> None:
    source = Tfds("prepared_reviews", {"text": "review"}, data_dir=data_dir)
    assert "has no split \"tran\"; it has train, did you mean 'train'?" in message(source, "tran")
    assert 'split "train[nonsense]"' in message(source, "train[nonsense]")


def test_an_unknown_feature_lists_those_that_can_be_text(data_dir: str) -> None:
    for feature in ("text", "image"):
        line = message(Tfds("prepared_reviews", [feature], data_dir=data_dir))
        assert f'has no text feature "{feature}"; it has {TEXT_FEATURES}' in line


def test_labels_become_names_and_features_are_renamed(data_dir: str) -> None:
    source = Tfds("prepared_reviews", {"inputs": "review", "targets": "label"}, data_dir=data_dir)
    assert [dict(example.fields) for example in source.examples("train")] == [
        {"inputs": line, "targets": str(i % 2).encode()} for i, line in enumerate(LINES)
    ]
    everything = next(Tfds("prepared_reviews", data_dir=data_dir).examples("train"))
    assert set(everything.fields) == {"label", "review", "pair/en", "pair/score"}


def test_nested_features_and_elements_of_lists_become_text(data_dir: str) -> None:
    fields = {"a": "answers/text/0", "b": "answers/text/1", "en": "pair/en", "score": "pair/score"}
    source = Tfds("prepared_reviews", fields, data_dir=data_dir)
    assert [tuple(example.fields.values()) for example in source.examples("train")] == [
        (b"", b"", b"en 0", b"0.1"),
        (b"answer 0", b"", b"en 1", b"0.1"),
        (b"answer 0", b"answer 1", b"en 2", b"0.1"),
    ]


def test_all_elements_of_a_list_become_fields(data_dir: str) -> None:
    source = Tfds("prepared_reviews", {"a": "answers/text/*", "en": "pair/en"}, data_dir=data_dir)
    assert [dict(example.fields) for example in source.examples("train")] == [
        {"en": b"en 0"},
        {"a/0": b"answer 0", "en": b"en 1"},
        {"a/0": b"answer 0", "a/1": b"answer 1", "en": b"en 2"},
    ]


def test_elements_of_a_list_of_fixed_length_become_fields(data_dir: str) -> None:
    source = Tfds("prepared_reviews", {"all": "names/*", "one": "names/1"}, data_dir=data_dir)
    assert [dict(example.fields) for example in source.examples("train")] == [
        {"all/0": b"Bob", "all/1": b"Tom %d" % i, "one": b"Tom %d" % i} for i in range(3)
    ]


def test_slices_give_splits_names(data_dir: str) -> None:
    slices = {"train": "train[1:]", "validation": "train[:1]+train[:1]"}
    source = Tfds("prepared_reviews", ["review"], slices, data_dir=data_dir)
    assert source.splits == ("train", "validation")
    assert texts(source, "train", "review") == LINES[1:]
    assert texts(source, "validation", "review") == [LINES[0]] * 2
    assert 'no split "test"; it has train, validation' in message(source, "test")
    beyond = dataclasses.replace(source, slices={"train": "trian[:1]"})
    assert "no split \"trian\"; it has train, did you mean 'train'?" in message(beyond)


def test_the_fingerprint_changes_with_version_split_fields_and_files(
    data_dir: str, tmp_path: Path
) -> None:
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    sources = [
        Tfds("prepared_reviews", {"text": "review"}, data_dir=str(tmp_path)),
        Tfds("prepared_reviews", {"text": "label"}, data_dir=str(tmp_path)),
    ]
    prints = [json.dumps(source.fingerprint("train")) for source in sources]
    prints.append(json.dumps(sources[0].fingerprint("train[:1]")))
    assert "prepared_reviews/2.0.0" in prints[0]
    assert Tfds("prepared_reviews", {"text": "review"}, data_dir=data_dir).fingerprint(
        "train"
    ) == json.loads(prints[0])
    (records,) = tmp_path.rglob("*.tfrecord*")
    records.write_bytes(records.read_bytes() + b"more")
    prints.append(json.dumps(sources[0].fingerprint("train")))
    assert len(set(prints)) == 4


def test_a_dataset_is_downloaded_only_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reviews = registered(monkeypatch)
    line = message(Tfds("prepared_reviews", {"text": "review"}, data_dir=str(tmp_path)))
    assert "is not prepared" in line and not list(tmp_path.iterdir())
    asked = Tfds("prepared_reviews", {"text": "review"}, data_dir=str(tmp_path), download=True)
    assert texts(asked) == LINES
    monkeypatch.setattr(reviews, "_split_generators", unreachable)
    assert texts(dataclasses.replace(asked)) == LINES
    elsewhere = dataclasses.replace(asked, data_dir=str(tmp_path / "else"))
    assert message(elsewhere) == (
        f'TFDS dataset "prepared_reviews" cannot be downloaded into {tmp_path}/else: no route'
    )


def registered(monkeypatch: pytest.MonkeyPatch) -> type[PreparedReviews]:
    """Makes TFDS find the builder by its name, as it finds its own; returns it."""
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: PreparedReviews(data_dir=data_dir))
    return PreparedReviews


def unreachable(*arguments: object) -> None:
    raise OSError("no\n  route")


def test_output_is_suppressed_within_the_block_only(capsys: pytest.CaptureFixture[str]) -> None:
    bars = tfds.core.utils.tqdm_utils
    before = (bars._active, logging.get_verbosity())
    with pytest.raises(KeyError), silent_tfds():
        print("inside")
        raise KeyError
    assert (bars._active, logging.get_verbosity()) == before
    print("outside")
    assert capsys.readouterr().out == "outside\n"
