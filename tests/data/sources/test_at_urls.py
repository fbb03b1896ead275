"""Data at URLs: the same examples and the same fingerprint on every machine."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mtfrun.data.errors import DataError
from mtfrun.data.images.image_source import ImageFolders
from mtfrun.data.sources.records import JsonLines
from mtfrun.data.sources.text_files import TextLines
from mtfrun.files import Store, copies


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "machine1"))
    return Store(f"memory://{uuid.uuid4().hex}/data")


def test_texts_are_read_and_described_alike_on_every_machine(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("x/a.txt", b"one\ntwo\n")
    store.write("x/b.txt.gz", b"")
    source = TextLines({"train": f"{store.url}/x/*.txt"})
    descriptions = []
    for machine in ("machine1", "machine2"):
        monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / machine))
        copies.copy_matching.cache_clear()
        assert [e.fields["text"] for e in source.examples("train")] == [b"one", b"two"]
        assert machine in source.paths("train")[0]
        descriptions.append(source.fingerprint("train"))
    assert descriptions[0] == descriptions[1]
    store.write("x/a.txt", b"one\ntwo\nthree\n")
    copies.copy_matching.cache_clear()
    assert source.fingerprint("train") != descriptions[0]


def test_a_url_that_matches_nothing_is_one_line(store: Store) -> None:
    with pytest.raises(DataError, match=r'no file matches "memory://.*": check its name'):
        TextLines({"train": f"{store.url}/*.txt"}).paths("train")


def test_images_are_read_from_a_folder_at_a_url(store: Store) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        file = io.BytesIO()
        Image.fromarray(np.zeros([4, 4, 3], np.uint8)).save(file, "PNG")
        store.write(f"train/{name}", file.getvalue())
    folders = ImageFolders({"train": f"{store.url}/train"})
    assert folders.label_names == ("cat", "dog")
    assert [example.label for example in folders.examples("train")] == [0, 1]


def test_json_lines_are_read_at_a_url(store: Store) -> None:
    store.write("a.jsonl", b'{"text": "one"}\n')
    (example,) = JsonLines({"train": f"{store.url}/a.jsonl"}).examples("train")
    assert example.fields["text"] == b"one"
