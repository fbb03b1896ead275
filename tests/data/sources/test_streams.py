"""Files in blocks, lines and parts, compressed or not."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import hypothesis
import pytest
import zstandard
from hypothesis import strategies

from mtfrun.data import DataError
from mtfrun.data.sources import streams

# So small that examples exceed them.
SHORTEST, REACH = 8, 4

CONTENTS = strategies.lists(
    strategies.one_of(
        strategies.binary(max_size=20), strategies.sampled_from([b"\n", b"\r\n", b" "])
    )
).map(b"".join)
CUTS = strategies.lists(strategies.integers(0, 200), max_size=5)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_PART", SHORTEST)
    monkeypatch.setattr(streams, "_REACH", REACH)


def cut(content: bytes, positions: list[int]) -> list[bytes]:
    bounds = [0, *sorted(min(position, len(content)) for position in positions), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(bounds)]


# The fixture sets the same values for every example.
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(CONTENTS, CUTS)
def test_parts_are_the_content_whatever_the_blocks(content: bytes, positions: list[int]) -> None:
    parts = list(streams.parts(cut(content, positions)))
    assert b"".join(part for part, _ in parts) == content
    assert [is_last for _, is_last in parts] == [False] * (len(parts) - 1) + [True]
    assert all(0 < len(part) <= SHORTEST for part, _ in parts[:-1])


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(CONTENTS, CUTS)
def test_lines_are_those_between_line_feeds_whatever_the_blocks(
    content: bytes, positions: list[int]
) -> None:
    lines: list[bytes] = []
    begins = True
    for part, is_whole in streams.lines(cut(content, positions)):
        lines.append(part if begins else lines.pop() + part)
        begins = is_whole
    expected = [line.removesuffix(b"\r") for line in content.split(b"\n")]
    if content.rpartition(b"\n")[2] == b"":
        del expected[-1]
    else:  # what no line feed ends has no line end
        expected[-1] = content.rpartition(b"\n")[2]
    assert begins and lines == expected


@pytest.mark.parametrize(
    "text, first",
    [
        (b"one\ntwo three", b"one\ntwo"),  # before the space, which is nearest to the end
        (b"12345\n78901", b"12345"),
        ("123456\u20acabc".encode(), b"123456"),  # a character stays whole
        (b"\x80" * 20, b"\x80" * SHORTEST),
    ],
)
def test_a_part_ends_before_a_line_a_word_or_a_character(text: bytes, first: bytes) -> None:
    assert next(streams.parts([text])) == (first, False)


def compressed(directory: Path, content: bytes) -> list[str]:
    plain, gz, zst = (directory / f"text{suffix}" for suffix in ("", ".gz", ".zst"))
    plain.write_bytes(content)
    gz.write_bytes(gzip.compress(content))
    half = len(content) // 2
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    frames = [compressor.compress(part) for part in (content[:half], content[half:])]
    zst.write_bytes(b"".join(frames))
    return [str(plain), str(gz), str(zst)]


CONTENT = bytes(range(256)) * 9_000


def test_compressed_files_are_read_as_plain_ones_and_from_any_byte(tmp_path: Path) -> None:
    for path in compressed(tmp_path, CONTENT):
        assert b"".join(streams.blocks(path)) == CONTENT
        for start, size in ((0, 5), (1_500_000, 20), (2_000_000, None), (4, 0), (10**9, 1)):
            end = None if size is None else start + size
            assert b"".join(streams.blocks(path, start, size)) == CONTENT[start:end]


def test_damaged_and_truncated_compressed_files_are_errors_that_name_them(tmp_path: Path) -> None:
    for path in compressed(tmp_path, CONTENT)[1:]:
        whole = Path(path).read_bytes()
        for damaged in (whole[:-20], b"not compressed", whole[:40] + b"\xff" * 9 + whole[49:]):
            Path(path).write_bytes(damaged)
            with pytest.raises(DataError, match=rf"^{path} cannot be read: [^\n]+$"):
                list(streams.blocks(path))


def test_a_missing_file_or_package_is_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="none cannot be read: No such file or directory"):
        list(streams.blocks(str(tmp_path / "none")))
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"a"))
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(DataError, match=r"a\.zst needs .*: \S+ -m pip install zstandard, or"):
        list(streams.blocks(str(tmp_path / "a.zst")))


def test_a_line_that_is_too_long_to_be_a_record_is_an_error_with_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert list(streams.whole_lines("f", [b"a\n" + b"b" * 99, b"c\nd"])) == [
        b"a",
        b"b" * 99 + b"c",
        b"d",
    ]
    monkeypatch.setattr(streams, "LONGEST_LINE", 30)
    with pytest.raises(DataError, match=r"^f:2: a line of more than 0 MiB"):
        list(streams.whole_lines("f", [b"a\n", b"b" * 99]))
