"""Sources of plain text files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtfrun.data import DataError, Source, TextFiles, TextLines
from mtfrun.data.sources.streams import LONGEST_PART
from mtfrun.data.splits import split_of

NAMES = ("a.txt", "b.txt")


def write(directory: Path, **texts: bytes) -> None:
    """Writes `name=content` as `directory/name.txt`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (directory / f"{name}.txt").write_bytes(text)


def documents(source: Source, split: str) -> list[bytes]:
    """Returns all documents of a split."""
    texts, is_continued = [], False
    for example in source.examples(split):
        assert list(example.fields) == ["text"]
        text = example.fields["text"]
        assert len(text) <= 2 * LONGEST_PART
        texts.append(texts.pop() + text if is_continued else text)
        is_continued = not example.is_whole
    assert not is_continued
    return texts


def message(source: Source, split: str) -> str:
    """Returns the one-line error of the source for `split`."""
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


def test_several_patterns_and_directories_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "x" / "deep", a=b"1")
    write(tmp_path / "y", b=b"2")
    source = TextFiles({"test": [str(tmp_path / "x/**/*.txt"), str(tmp_path / "y/b.txt")]})
    assert documents(source, "test") == [b"1", b"2"]


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


def test_an_unknown_split_lists_the_splits(tmp_path: Path) -> None:
    line = message(TextFiles({"train": "a", "validation": "b"}), "validaton")
    expected = "has no split \"validaton\"; it has train, validation, did you mean 'validation'?"
    assert expected in line


def test_a_split_that_no_file_falls_into_asks_for_patterns_per_split(tmp_path: Path) -> None:
    write(tmp_path, a=b"text", b=b"text")
    empty = next(s for s in ("train", "validation", "test") if s not in map(split_of, NAMES))
    line = message(TextFiles(f"{tmp_path}/*.txt"), empty)
    assert "none of the 2 file(s)" in line and "give patterns per split" in line


def parts(path: Path) -> list[bytes]:
    """Returns the parts of a single file that are train, validation and test."""
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
        'fall into "validation"; take a longer one, or give patterns per split'
    )
