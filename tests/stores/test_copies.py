"""Copies of data at URLs."""

from __future__ import annotations

import pathlib
import uuid

import pytest

from mtfrun.errors import InputError
from mtfrun.stores import Store, StoreError, copies, copy_matching, local_copy, origin_of


@pytest.fixture
def store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path))
    store = Store(f"memory://{uuid.uuid4().hex}/data")
    for name in ("a.txt", "b.tsv", "deep/c.txt", "deep/er/d.txt"):
        store.write(name, name.encode())
    return store


def _forget() -> None:
    """Does what a new process begins with."""
    copies.copy_matching.cache_clear()
    copies.local_copy.cache_clear()


def test_patterns_match_the_names_below_their_fixed_part(store: Store) -> None:
    expected = {
        "*.txt": ["a.txt"],
        "a.txt": ["a.txt"],
        "deep/*.txt": ["c.txt"],
        "deep/**/*.txt": ["c.txt", "er/d.txt"],
        "**/*.txt": ["a.txt", "deep/c.txt", "deep/er/d.txt"],
        "nothing/*": [],
    }
    matched = {pattern: copy_matching(f"{store.url}/{pattern}") for pattern in expected}
    assert {pattern: [*found.values()] for pattern, found in matched.items()} == expected
    for path in matched["**/*.txt"]:
        origin = origin_of(pathlib.Path(path))
        assert origin is not None and origin.url.endswith(pathlib.Path(path).read_text())


def test_a_copy_is_made_again_only_if_the_file_has_changed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = local_copy(f"{store.url}/a.txt")
    store.write("a.txt", b"changed")
    assert local_copy(f"{store.url}/a.txt").read_text() == "a.txt"  # within a process
    _forget()
    assert local_copy(f"{store.url}/a.txt") == copy and copy.read_text() == "changed"
    _forget()
    monkeypatch.setattr(Store, "download", lambda _, targets: targets and 1 / 0)
    assert local_copy(f"{store.url}/a.txt").read_text() == "changed"


def test_a_folder_is_copied_whole(store: Store) -> None:
    folder = local_copy(store.url)
    assert sorted(path.name for path in folder.rglob("*.t*")) == [
        *("a.txt", "b.tsv", "c.txt", "d.txt")
    ]


def test_names_that_leave_the_folder_are_left_out(store: Store) -> None:
    for name in ("../up.txt", "deep/../../up.txt", ".hidden", "deep/.git/config"):
        store._system.pipe_file(f"{store._root}/{name}", b"")
    assert sorted(store.files()) == ["a.txt", "b.tsv", "deep/c.txt", "deep/er/d.txt"]


def test_an_unknown_protocol_is_one_line() -> None:
    with pytest.raises(InputError, match="nowhere://a: fsspec knows no protocol nowhere://"):
        Store("nowhere://a")


def test_a_file_that_cannot_be_read_is_one_line(store: Store, tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreError, match=f"cannot read {store.url}/none: "):
        store.download({"none": tmp_path / "none"})
