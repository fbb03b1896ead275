"""Copies of data at URLs."""

from __future__ import annotations

import base64
import http.server
import os
import pathlib
import threading
import uuid

import pytest

from mtfrun.errors import InputError
from mtfrun.files import Store, StoreError, copies, copy_matching, is_url, local_copy, origin_of


@pytest.fixture
def store(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path))
    store = Store(f"memory://{uuid.uuid4().hex}/data")
    for name in ("a.txt", "b.tsv", "deep/c.txt", "deep/er/d.txt"):
        store.write(name, name.encode())
    return store


def _forget() -> None:
    copies._names.clear()
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
    names = sorted(path.name for path in local_copy(store.url).rglob("*.t*"))
    assert names == ["a.txt", "b.tsv", "c.txt", "d.txt"]
    # Names that leave the folder are left out.
    for name in ("../up.txt", "deep/../../up.txt", ".hidden", "deep/.git/config"):
        store._system.pipe_file(f"{store._root}/{name}", b"")
    assert sorted(store.files()) == ["a.txt", "b.tsv", "deep/c.txt", "deep/er/d.txt"]


def test_a_file_that_cannot_be_read_is_one_line(store: Store, tmp_path: pathlib.Path) -> None:
    with pytest.raises(StoreError, match=f"cannot read {store.url}/none: "):
        store.download({"none": tmp_path / "none"})


def test_files_of_this_machine_are_regular_and_not_links(tmp_path: pathlib.Path) -> None:
    (tmp_path / "secret").write_text("secret")
    run = tmp_path / "run"
    for folder in (run / "origin", tmp_path / "outside"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    (run / "origin" / "link").symlink_to(tmp_path / "secret")
    (run / "commands").symlink_to(tmp_path / "outside")
    os.mkfifo(run / "pipe")
    store = Store(f"file://{run}")
    assert list(store.files()) == ["origin/config.json"] == list(store.glob("*/*"))
    for name in ("origin/link", "commands/config.json", "pipe"):
        for action in (store.read, store.describe, lambda name: store.write(name, b"")):
            with pytest.raises(StoreError, match=f"{name}: .* not (followed|a regular file)"):
                action(name)
    assert (tmp_path / "outside" / "config.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nowhere://a", "cannot open nowhere://a: Protocol not known: nowhere"),
        ("s3://", "s3:// names no bucket"),
        ("file:///", "names no bucket or directory"),
        ("simplecache::file:///tmp/x", "URLs within URLs are not read"),
        ("filecache::x", "URLs within URLs are not read"),
    ],
)
def test_what_names_no_store_is_refused(url: str, reason: str) -> None:
    assert is_url(url)
    with pytest.raises(InputError, match=reason):
        Store(url)


class _Server(http.server.SimpleHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        content = b"" if self.command == "HEAD" else b"text"
        self.send_response(200 if self._is_allowed() else 401)
        self.send_header("Content-Length", "4")
        self.send_header("ETag", "1")
        self.end_headers()
        self.wfile.write(content)

    def _is_allowed(self) -> bool:
        password = base64.b64encode(b"me:s3cr3t").decode()
        return self.headers["Authorization"] == f"Basic {password}" and "sig=s3cr3t" in self.path

    def log_message(self, *_: object) -> None:
        pass


def test_a_password_is_not_recorded_and_a_signature_may_change(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"127.0.0.1:{server.server_port}/a.txt?sig="
        copies_made = set()
        for number in range(2):
            (path,) = copy_matching(f"http://me:s3cr3t@{place}s3cr3t{number}")
            origin = origin_of(pathlib.Path(path))
            masked = f"http://me:***@{place}***"
            assert origin is not None and origin.url == masked
            assert pathlib.Path(path).read_bytes() == b"text"
            copies_made.add(path)
            _forget()
        assert len(copies_made) == 1
        monkeypatch.delenv("MTFRUN_URLS", raising=False)
        with pytest.raises(InputError, match=r"me:\*\*\*@.*not recorded: set MTFRUN_URLS"):
            copy_matching(masked)
        monkeypatch.setenv("MTFRUN_URLS", f"s3://other http://me:s3cr3t@{place}s3cr3t")
        assert copy_matching(masked) == {path: "a.txt"} and local_copy(masked).is_file()
        server.shutdown()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any("s3cr3t" in str(p) or b"s3cr3t" in p.read_bytes() for p in files)
