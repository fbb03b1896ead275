"""Sources of plain text files."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from mtfrun.data import DataError, Source, TextFiles, TextLines, TextParagraphs
from mtfrun.data.sources.source import TextSource
from mtfrun.data.sources.streams import LONGEST_PART
from mtfrun.data.splits import split_of
from mtfrun.errors import InputError

NAMES = ("a.txt", "b.txt")
# Bytes in memory while a file of any length is read.
LARGEST_PEAK = 12 * LONGEST_PART


def write(directory: Path, **texts: bytes) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name}.txt").write_bytes(text)


def documents(source: Source, split: str) -> list[bytes]:
    texts: list[bytes] = []
    is_continued = False
    for example in source.examples(split):
        assert list(example.fields) == ["text"]
        text = example.fields["text"]
        assert len(text) <= 2 * LONGEST_PART
        texts.append(texts.pop() + text if is_continued else text)
        is_continued = not example.is_whole
    assert not is_continued
    return texts


def message(source: Source, split: str) -> str:
    with pytest.raises(DataError) as error:
        list(source.examples(split))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_files_are_documents_byte_for_byte_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path, b=b"\x00\r\n\xff", a="é\n".encode(), c=b"")
    source = TextFiles({"train": str(tmp_path / "*.txt")})
    assert source.splits == ("train",)
    assert documents(source, "train") == ["é\n".encode(), b"\x00\r\n\xff", b""]


def test_lines_are_documents_without_their_ends(tmp_path: Path) -> None:
    write(tmp_path, a=b"one\r\ntwo\n\nthr\x00ee", b=b"four\n")
    source = TextLines({"train": str(tmp_path / "*.txt")})
    assert documents(source, "train") == [b"one", b"two", b"", b"thr\x00ee", b"four"]


def test_only_the_carriage_return_of_a_line_end_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, a=b"a\rb\r\nc\r")
    patterns = {"train": str(tmp_path / "a.txt")}
    assert documents(TextLines(patterns), "train") == [b"a\rb", b"c\r"]
    assert documents(TextFiles(patterns), "train") == [b"a\rb\r\nc\r"]


def test_a_file_with_several_links_is_read_once(tmp_path: Path) -> None:
    write(tmp_path / "x" / "deep", a=b"1", b=b"2")
    write(tmp_path / "elsewhere", c=b"3")
    for name, target in (
        ("x/loop", "x"),
        ("x/deep/up", "x"),
        ("x/above", ""),
        ("x/disk", "/"),
        ("x/elsewhere", "elsewhere"),
        ("x/deep/again", "elsewhere"),
        ("x/first.txt", "x/deep/a.txt"),
    ):
        (tmp_path / name).symlink_to(tmp_path / target)
    for pattern in ("x/**/*.txt", "x/**/**/*.txt", "x/*/**/*.txt", "x/**"):
        assert sorted(documents(TextFiles({"test": str(tmp_path / pattern)}), "test")) == [
            *(b"1", b"2", b"3")
        ]
    names = TextFiles({"test": str(tmp_path / "x/**/*.txt")}).paths("test")
    assert names[0] == f"{tmp_path}/x/deep/a.txt"
    several = [str(tmp_path / "x/elsewhere/*.txt"), str(tmp_path / "elsewhere/*.txt")]
    assert documents(TextFiles({"test": several}), "test") == [b"3"]


@pytest.mark.parametrize("name", ["my [final] data.txt", "what?.txt", "a*b.txt"])
def test_the_name_of_an_existing_file_is_not_a_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path / "d[1]", a=b"1")
    (tmp_path / name).write_bytes(b"2")
    (tmp_path / "a-b.txt").write_bytes(b"3")
    assert documents(TextFiles({"test": str(tmp_path / name)}), "test") == [b"2"]
    assert documents(TextFiles({"test": str(tmp_path / "d[1]/*.txt")}), "test") == [b"1"]
    assert documents(TextFiles({"test": str(tmp_path / "d[1]" / "a.txt")}), "test") == [b"1"]


def test_a_byte_order_mark_is_not_part_of_a_text(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + "".join(f"line {i}\n" for i in range(100)).encode()
    write(tmp_path, a=content)
    assert documents(TextLines({"train": str(tmp_path / "a.txt")}), "train")[0] == b"line 0"
    for path in (tmp_path / "a.txt", tmp_path / "a.txt.gz"):
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        source = TextFiles(str(path))
        parts = [documents(source, split) for split in ("train", "validation", "test")]
        assert b"".join(part for (part,) in parts) == content[3:]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (gzip.compress(b"x" * 999, mtime=0), "compressed by gzip, which its name must end in: .gz"),
        (bz2.compress(b"x" * 999), "compressed by bzip2"),
        (lzma.compress(b"x" * 999), "compressed by xz"),
        (zstandard.compress(b"x" * 999), "compressed by Zstandard"),
        (b"PK\x03\x04 and so on", "an archive"),
        (b"a.txt".ljust(257, b"\0") + b"ustar\x0000", "a tar archive"),
        ("one\ntwo\n".encode("utf-16"), "UTF-16: convert it"),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, content: bytes, kind: str) -> None:
    write(tmp_path, a=content)
    for source in (TextFiles, TextLines, TextParagraphs):
        line = message(source({"train": str(tmp_path / "a.txt")}), "train")
        assert line.startswith(f"{tmp_path}/a.txt is not text but {kind}")


def test_lines_may_end_with_carriage_returns_alone(tmp_path: Path) -> None:
    write(tmp_path, a=b"one\rtwo\r\rthree\r")
    patterns = {"train": str(tmp_path / "a.txt")}
    assert documents(TextLines(patterns), "train") == [b"one", b"two", b"", b"three"]
    assert documents(TextParagraphs(patterns), "train") == [b"one\ntwo", b"three"]


@pytest.mark.parametrize("kind", [TextFiles, TextLines, TextParagraphs])
def test_text_that_is_not_utf8_is_named_with_its_line(
    tmp_path: Path, kind: type[TextSource], caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, a=("é" * 99 + "\n").encode() * 6000 + b"caf\xe9\nna\xefve\n", b=b"half \xc3")
    patterns = {"train": str(tmp_path / "*.txt")}
    assert b"caf\xe9" in b"\n".join(documents(kind(patterns), "train"))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"{tmp_path}/a.txt:6001 is not UTF-8 (byte 0xe9): ")
    assert second.startswith(f"{tmp_path}/b.txt:1 is not UTF-8 (byte 0xc3): ")
    caplog.clear()
    list(kind(patterns, invalid_utf8="keep").examples("train"))
    assert not caplog.records
    line = message(kind(patterns, invalid_utf8="refuse"), "train")
    assert line.startswith(f"{tmp_path}/a.txt:6001 is not UTF-8 (byte 0xe9): convert the file")
    with pytest.raises(InputError, match="invalid_utf8 is 'no': it must be 'warn' or"):
        kind(patterns, invalid_utf8="no")


def test_errors_in_a_split_of_a_file_name_the_line_in_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, a=b"line\n" * 95 + b"caf\xe9\n" + b"line\n" * 4)
    list(TextFiles(str(tmp_path / "a.txt")).examples("test"))
    assert f"{tmp_path}/a.txt:96 is not UTF-8" in caplog.text


def test_without_a_mapping_the_path_below_the_pattern_decides_the_split(tmp_path: Path) -> None:
    names = {f"f{i}": str(i).encode() for i in range(60)}
    for directory in ("one", "another/below"):
        write(tmp_path / directory, **names)
        source = TextFiles(str(tmp_path / directory / "*.txt"))
        by_split = {split: documents(source, split) for split in source.splits}
        for split, texts in by_split.items():
            expected = [names[n] for n in sorted(names) if split_of(f"{n}.txt") == split]
            assert texts == expected and texts
        assert sum(map(len, by_split.values())) == 60


def test_equal_lines_fall_into_one_split_and_every_line_into_some(tmp_path: Path) -> None:
    lines = [f"line {i % 700}".encode() for i in range(1400)]
    write(tmp_path, a=b"\n".join(lines))
    source = TextLines(str(tmp_path / "a.txt"))
    splits = [documents(source, split) for split in ("train", "validation", "test")]
    assert sorted(line for split in splits for line in split) == sorted(lines)
    assert sum(len(set(split)) for split in splits) == 700
    assert 500 < len(set(splits[0])) < 620 and len(splits[1]) > 50 and len(splits[2]) > 50


def test_the_error_of_a_pattern_without_a_file_lists_its_directory(tmp_path: Path) -> None:
    write(tmp_path, a=b"", b=b"")
    assert message(TextFiles({"train": f"{tmp_path}/*.text"}), "train") == (
        f'no file matches "{tmp_path}/*.text"; {tmp_path} holds a.txt, b.txt'
    )
    assert message(TextLines(f"{tmp_path}/none/x.txt"), "train") == (
        f'no file matches "{tmp_path}/none/x.txt"; there is no directory {tmp_path}/none'
    )
    assert message(TextFiles(str(tmp_path)), "train") == (
        f'"{tmp_path}" is a directory: name its files, such as "{tmp_path}/*"'
    )


def test_a_pattern_does_not_search_the_whole_disk() -> None:
    for pattern in ("/**", "/*/**/*.txt", "/tmp/../**/x"):
        assert "searches the whole disk" in message(TextFiles({"train": pattern}), "train")


def test_an_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    line = message(TextFiles({"train": "a", "validation": "b"}), "validaton")
    expected = "has no split \"validaton\"; it has train, validation, did you mean 'validation'?"
    assert expected in line


def test_a_split_that_no_file_falls_into_asks_for_patterns_per_split(tmp_path: Path) -> None:
    write(tmp_path, a=b"text", b=b"text")
    empty = next(s for s in ("train", "validation", "test") if s not in map(split_of, NAMES))
    line = message(TextFiles(f"{tmp_path}/*.txt"), empty)
    assert "none of the 2 file(s)" in line and "a hash of the path puts 10% of them" in line
    assert "give patterns per split" in line


def parts(path: Path) -> list[bytes]:
    contents = []
    for split in ("train", "validation", "test"):
        try:
            contents += documents(TextFiles(str(path)), split)
        except DataError:
            contents.append(b"")
    return contents


@pytest.mark.parametrize("line", [b"the quick brown fox\n", b"\n", b"", b"\r\n", b"short\n" * 99])
@pytest.mark.parametrize("text", ["plain text ", "Gr\u00fc\u00dfe, \u4e16\u754c \U0001f98a "])
@pytest.mark.parametrize("size", [0, 1, 2, 7, 40, 333, 100_000])
def test_a_single_file_is_divided_in_three_at_lines_or_characters(
    line: bytes, text: str, size: int, tmp_path: Path
) -> None:
    content = (line + text.encode() * 3) * size
    content = content[:size].decode("utf-8", "ignore").encode()
    (tmp_path / "input.txt").write_bytes(content)
    splits = parts(tmp_path / "input.txt")
    assert b"".join(splits) == content and parts(tmp_path / "input.txt") == splits
    for part in splits:
        part.decode()
    if size > 300:
        shares = [len(part) / len(content) for part in splits]
        assert 0.75 <= shares[0] <= 0.85 and min(shares[1:]) >= 0.05
    if size == 100_000 and line:
        assert all(part.endswith(b"\n") for part in splits[:2])


def test_a_single_file_of_invalid_utf8_is_divided_at_bytes(tmp_path: Path) -> None:
    content = b"\x80" * 1000
    (tmp_path / "input.bin").write_bytes(content)
    assert list(map(len, parts(tmp_path / "input.bin"))) == [800, 100, 100]


def test_a_single_file_that_is_too_small_for_a_split_is_an_error_of_one_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "input.txt").write_bytes(b"abc")
    line = message(TextFiles(f"{tmp_path}/input.txt"), "validation")
    assert line.startswith(
        f"{tmp_path}/input.txt is the only file and too small to be split: none of its 3 byte(s) "
        'fall into "validation"; add more, or give patterns per split'
    )


def test_paragraphs_are_lines_between_blank_ones(tmp_path: Path) -> None:
    write(tmp_path, a=b"\n\none\r\n  two\r\n\r\n \t\nthree\n\n\n", b=b"four\n", c=b"\n \n")
    source = TextParagraphs({"train": str(tmp_path / "*.txt")})
    assert documents(source, "train") == [b"one\n  two", b"three", b"four"]


def test_paragraphs_are_split_by_their_text(tmp_path: Path) -> None:
    paragraphs = [f"a\nparagraph {i % 200}".encode() for i in range(400)]
    write(tmp_path, a=b"\n\n".join(paragraphs))
    source = TextParagraphs(str(tmp_path / "a.txt"))
    splits = [documents(source, split) for split in source.splits]
    assert sorted(text for split in splits for text in split) == sorted(paragraphs)
    assert sum(len(set(split)) for split in splits) == 200 and all(splits)


LONG = 3 * LONGEST_PART


@pytest.mark.parametrize("separator", [b"", b" ", b"\n"])
def test_long_documents_come_in_parts_of_one_split(separator: bytes, tmp_path: Path) -> None:
    content = (b"0123456789" * 100 + separator) * (LONG // 1000) + b"end"
    write(tmp_path, a=b"first\n\n" + content + b"\n\nlast\n\n" + content)
    path = str(tmp_path / "a.txt")
    assert b"".join(documents(TextFiles({"train": path}), "train")) == Path(path).read_bytes()
    expected = [b"first", content, b"last", content]
    assert documents(TextParagraphs({"train": path}), "train") == expected
    splits = [documents(TextParagraphs(path), split) for split in ("train", "validation", "test")]
    assert [split.count(content) for split in splits if content in split] == [2]
    assert sorted(text for split in splits for text in split) == sorted(expected)
    if separator != b"\n":
        expected = [b"first", b"", content, b"", b"last", b"", content]
        assert documents(TextLines({"train": path}), "train") == expected


@pytest.mark.parametrize("kind", [TextFiles, TextLines, TextParagraphs])
@pytest.mark.parametrize("suffix, compress", [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_compressed_files_have_the_splits_of_plain_ones(
    kind: type[TextFiles | TextLines | TextParagraphs],
    suffix: str,
    compress: Callable[[bytes], bytes],
    tmp_path: Path,
) -> None:
    content = "".join(f"line {i} \u20ac\n\n" for i in range(9_000)).encode()
    write(tmp_path, a=content)
    (tmp_path / f"a.txt{suffix}").write_bytes(compress(content))
    for split in ("train", "validation", "test"):
        plain = documents(kind(str(tmp_path / "a.txt")), split)
        assert plain and plain == documents(kind(str(tmp_path / f"a.txt{suffix}")), split)


def test_the_fingerprint_changes_with_files_splits_and_settings_but_not_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, a=b"text")
    pattern = str(tmp_path / "*.txt")
    prints = {
        json.dumps(source.fingerprint("train"))
        for source in (TextLines(pattern), TextLines({"train": pattern}), TextFiles(pattern))
    }
    prints.add(json.dumps(TextLines(pattern).fingerprint("test")))
    assert len(prints) == 4
    monkeypatch.chdir(tmp_path)
    assert json.dumps(TextLines("./a.*").fingerprint("train")) in prints
    (tmp_path / "a.txt").write_bytes(b"more text")
    assert json.dumps(TextLines(pattern).fingerprint("train")) not in prints
    with pytest.raises(DataError, match='no split "dev"'):
        TextLines(pattern).fingerprint("dev")


def test_a_file_that_cannot_be_read_is_an_error_of_one_line(tmp_path: Path) -> None:
    write(tmp_path, a=b"text")
    source = TextLines({"train": str(tmp_path / "a.txt")})
    (tmp_path / "a.txt").chmod(0)
    if os.access(tmp_path / "a.txt", os.R_OK):  # the superuser may read all files
        return
    assert "a.txt cannot be read: Permission denied" in message(source, "train")


def test_the_expected_bytes_are_about_those_of_the_text(tmp_path: Path) -> None:
    write(tmp_path, a=b"".join(b"line %d\n" % i for i in range(9_000)), b=b"text")
    one, both = str(tmp_path / "a.txt"), str(tmp_path / "*.txt")
    for source in (TextFiles(one), TextLines(one), TextFiles({"test": one}), TextFiles(both)):
        split = source.splits[-1]
        if source == TextFiles(both) and split not in map(split_of, NAMES):
            continue
        size = sum(map(len, documents(source, split)))
        expected = source.expected_bytes(split)
        assert expected is not None and 0.7 * expected <= size <= 1.1 * expected
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"text"))
    assert TextLines(str(tmp_path / "a.txt.gz")).expected_bytes("train") is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TextFiles, TextLines, TextParagraphs])
def test_a_large_file_is_never_in_memory(
    kind: type[TextFiles | TextLines | TextParagraphs], tmp_path: Path
) -> None:
    with (tmp_path / "a.txt").open("wb") as file:
        for number in range(60):
            file.write(f"{number:04d} is a line without an end ".encode() * 34_000)
    tracemalloc.start()
    try:
        total = sum(
            len(example.fields["text"])
            for example in kind({"train": str(tmp_path / "a.txt")}).examples("train")
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == (tmp_path / "a.txt").stat().st_size > 60_000_000
    assert peak < LARGEST_PEAK
