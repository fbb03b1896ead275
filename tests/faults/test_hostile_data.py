"""Datasets and vocabularies that are made to do harm: one line in time, with bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import pathlib
import resource
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import masked_crc32c

from mtfrun import data
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.manifest import read_manifest
from mtfrun.configuration.errors import one_line
from mtfrun.data.sources.streams import blocks
from mtfrun.errors import InputError
from mtfrun.extras import huggingface
from mtfrun.files import RunDirError
from mtfrun.metrics.curves import read_curves
from tests.faults.fuzzing import CPU_SECS, cpu_limit, some_quick

DEEP = 100_000


def refused(read: Callable[[], object]) -> str:
    with cpu_limit(CPU_SECS), pytest.raises((InputError, OSError)) as caught:
        read()
    line = one_line(caught.value)
    assert line.isprintable() and len(line) < 2100
    return line


def link_to_zeros(path: str) -> None:
    pathlib.Path(path).symlink_to("/dev/zero")


def drained(source: data.Source | data.ImageSource) -> int:
    return sum(1 for _ in source.examples("train"))


JSONL = {
    "nested lists": b'{"text": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "nested objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "a list": b"[1, 2]",
    "open": b'{"text": "a',
    "NUL": b'{"text": "a"}\x00',
    "UTF-16": '{"text": "a"}'.encode("utf-16"),
    "any bytes": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("name", some_quick(JSONL, {"nested lists", "any bytes"}))
def test_json_lines(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(JSONL[name])
    source = data.JsonLines({"train": str(path)})
    # Of another encoding it is the file that is wrong, and not its first line.
    place = f"{path} is not text but UTF-16" if name == "UTF-16" else f"{path}:1: "
    assert place in refused(lambda: drained(source))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.tsv.gz"])
def test_a_line_without_an_end_is_not_held_in_memory(name: str, tmp_path: pathlib.Path) -> None:
    content = b"\x00" * 300_000_000
    path = tmp_path / name
    path.write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)
    kind = data.Tsv if "tsv" in name else data.JsonLines
    line = refused(lambda: drained(kind({"train": str(path)})))
    assert "a line of more than 64 MiB" in line


NAMES = [
    "/dev/zero",
    "/dev/stdin",
    "/proc/self/mem",
    "~nobody_here/x",
    "-rf",
    "",
    "a\x00b",
    "\x1b[2J",
]
SOURCES = ["TextFiles", "TextLines", "TextParagraphs", "JsonLines", "Tsv", "Parquet"]
VOCABULARIES = [data.SentencePieceVocabulary, huggingface.HuggingFaceVocabulary]


@pytest.fixture(params=[*NAMES, "pipe", "directory", "a" * 5000])
def no_file(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    if request.param == "pipe":
        os.mkfifo(tmp_path / "pipe")
    return {"pipe": f"{tmp_path}/pipe", "directory": str(tmp_path)}.get(
        request.param, request.param
    )


@pytest.mark.parametrize("kind", some_quick(SOURCES, {"TextLines"}))
def test_names_that_are_no_files_of_texts(kind: str, no_file: str) -> None:
    refused(lambda: drained(getattr(data, kind)({"train": no_file})))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_names_that_are_no_vocabularies(
    vocabulary: Callable[[str], data.Vocabulary], no_file: str
) -> None:
    refused(lambda: vocabulary(no_file).size)


MODELS = {
    "nothing": b"",
    "zeros": b"\0" * 1000,
    "a length that is too long": b"\x0a" + b"\xff" * 9 + b"\x01",
    "nested lists": b"[" * DEEP,
    "no token": b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
    "an id of 2^70": b'{"model": {"type": "WordLevel", "vocab": {"a": 1180591620717411303424}}}',
    "a negative id": b'{"model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("content", MODELS.values(), ids=MODELS)
def test_vocabularies_that_are_none(
    content: bytes, vocabulary: Callable[[str], data.Vocabulary], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "model").write_bytes(content)
    refused(lambda: vocabulary(str(tmp_path / "model")).size)


def _idx(*sizes: int) -> bytes:
    return struct.pack(">BBBB", 0, 0, 8, len(sizes)) + struct.pack(f">{len(sizes)}I", *sizes)


IDX = {
    "2^96 bytes": (_idx(2**32 - 1, 2**32 - 1, 2**32 - 1), _idx(2**32 - 1)),
    "0 modulo 2^64": (_idx(2**31, 2**31, 4), _idx(2**31)),
    "another number of labels": (_idx(2, 2, 2) + bytes(8), _idx(3) + bytes(3)),
    "a label that is not a class": (_idx(2, 2, 2) + bytes(8), _idx(2) + b"\xff\xff"),
    "a header of one byte": (b"\0", b"\0"),
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("name", IDX)
def test_idx_files(name: str, suffix: str, tmp_path: pathlib.Path) -> None:
    for file, content in zip(("images-idx3", "labels-idx1"), IDX[name], strict=True):
        content = gzip.compress(content) if suffix else content
        (tmp_path / f"train-{file}-ubyte{suffix}").write_bytes(content)
    refused(lambda: drained(data.IdxImages(str(tmp_path))))


def test_a_compressed_idx_file_is_read_no_further_than_its_header_says(
    tmp_path: pathlib.Path,
) -> None:
    images = gzip.compress(_idx(2, 2, 2) + bytes(50_000_000), 1)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(2) + b"\0\1"))
    line = refused(lambda: drained(data.IdxImages(str(tmp_path))))
    assert "has more bytes of data" in line


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, link_to_zeros])
def test_idx_files_that_are_none(make: Callable[[str], None], tmp_path: pathlib.Path) -> None:
    for file in ("images-idx3", "labels-idx1"):
        make(str(tmp_path / f"train-{file}-ubyte"))
    refused(lambda: drained(data.IdxImages(str(tmp_path))))


def _png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, text in [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]:
        content += struct.pack(">I", len(text)) + kind + text
        content += struct.pack(">I", zlib.crc32(kind + text))
    return content


def _plain_png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    return file.getvalue()


IMAGES: dict[str, Callable[[], bytes]] = {
    "2^62 pixels": lambda: _png(2**31 - 1, 2**31 - 1, b""),
    "a bomb": lambda: _png(13_000, 13_000, zlib.compress(bytes(13_000 * 39_001), 9)),
    "no pixel": lambda: _png(0, 0, b""),
    "a bomb of a text": lambda: _png(
        *(4, 4, zlib.compress(bytes(52))),
        (b"zTXt", b"a\0\0" + zlib.compress(bytes(100_000_000), 9)),
    ),
    "a program": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n(x) (w) file",
    "a part": lambda: _plain_png()[:-40],
}


@pytest.fixture
def folders(tmp_path: pathlib.Path) -> data.ImageFolders:
    """Folders of two classes; cat/ has no image yet."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog/1.png").write_bytes(_plain_png())
    return data.ImageFolders({"train": str(tmp_path)})


@pytest.mark.parametrize("name", some_quick(IMAGES, {"2^62 pixels", "a program"}))
def test_images(name: str, folders: data.ImageFolders, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cat/1.png").write_bytes(IMAGES[name]())
    refused(lambda: drained(folders))


def test_folders_with_links_to_themselves_are_read_once(
    folders: data.ImageFolders, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "cat/1.png").write_bytes(_plain_png())
    (tmp_path / "cat/again").symlink_to(tmp_path)
    (tmp_path / "cat/up").symlink_to("..")
    with cpu_limit(CPU_SECS):
        assert drained(folders) == 2


@pytest.mark.parametrize("make", [os.mkfifo, link_to_zeros])
def test_images_that_are_no_files(
    make: Callable[[str], None], folders: data.ImageFolders, tmp_path: pathlib.Path
) -> None:
    make(str(tmp_path / "cat/1.png"))
    refused(lambda: drained(folders))


def _record(content: bytes, length: int | None = None) -> bytes:
    header = struct.pack("<Q", len(content) if length is None else length)
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in (header, content))


@pytest.mark.parametrize("length", [10**11, 2**64 - 1])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_record_with_a_forged_length_is_refused(
    suffix: str, length: int, tmp_path: pathlib.Path
) -> None:
    content = _record(b"") + _record(b"x" * 100, length)
    path = tmp_path / f"a.tfrecord{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    line = refused(lambda: drained(data.Tfrecord({"train": str(path)}, skip_bad_records=9)))
    assert f"record 2 is of {length:,} bytes" in line


@pytest.mark.parametrize("suffix", some_quick([".gz", ".bz2", ".xz"], {".gz"}))
def test_a_small_file_that_decompresses_to_a_large_one_is_refused(
    suffix: str, tmp_path: pathlib.Path
) -> None:
    opens: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    path = tmp_path / f"a.txt{suffix}"
    with opens[suffix](path, "wb") as file:
        file.write((b"a" * 1000 + b"\n") * 150_000)
    line = refused(lambda: drained(data.TextLines({"train": str(path)})))
    assert "over 200 times as many: if that is meant, decompress it yourself" in line


def test_too_many_open_files_are_not_called_damage(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\n")
    variables = {"x": tf.Variable(1.0)}
    Checkpoints(tmp_path).save(1, variables)
    source = data.TextLines({"train": str(path)})
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, limits[1]))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        lines = [refused(lambda: list(blocks(str(path))))]
        with pytest.raises(RunDirError) as caught:
            read_manifest(tmp_path, 1)
        lines.append(str(caught.value))
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    for line in lines:
        assert "Too many open files; nothing is damaged: raise the limit" in line
    assert drained(source) == 1
    Checkpoints(tmp_path).restore(None, variables)


def test_invalid_events_are_refused(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "events.out.tfevents.1.x"
    forged_length = _record(b"") + _record(b"x" * 100, 10**11)
    forged_shape = _record(_scalar([10**12]).SerializeToString())
    text = _record(_scalar([], text=b"x").SerializeToString())
    for content in (_record(b"no event"), forged_length, forged_shape, text):
        path.write_bytes(content)
        assert str(tmp_path) in refused(lambda: read_curves(tmp_path))
    path.unlink()
    os.mkfifo(path)
    assert "Not a regular file" in refused(lambda: read_curves(tmp_path))


def _scalar(sizes: Iterable[int], text: bytes | None = None) -> Event:
    event = Event(step=1, wall_time=1.0)
    value = event.summary.value.add(tag="loss")
    value.metadata.plugin_data.plugin_name = "scalars"
    value.tensor.dtype = 1 if text is None else 7
    value.tensor.float_val.append(1.0) if text is None else value.tensor.string_val.append(text)
    for size in sizes:
        value.tensor.tensor_shape.dim.add(size=size)
    return event


PLAIN_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def _plain_tokenizer(**parts: object) -> bytes:
    model = {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1, "</s>": 2, "<unk>": 3}}
    added = [{"id": 0, "content": "<pad>", "special": True, **PLAIN_TOKEN}]
    model["unk_token"] = "<unk>"
    return json.dumps({"version": "1.0", "added_tokens": added, "model": model, **parts}).encode()


PANICS: dict[str, dict[str, object]] = {
    "a map of characters": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "merges without their result": {
        "model": {"type": "BPE", "vocab": {"<pad>": 0, "b": 7}, "merges": ["<pad> b"]}
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "the largest id": {
        "added_tokens": [{"id": 2**32 - 1, "content": "</s>", "special": True, **PLAIN_TOKEN}],
        "model": {"type": "BPE", "vocab": {"</s>": 2**32 - 1}, "merges": []},
    },
}


@pytest.mark.parametrize("name", PANICS)
def test_tokenizers_that_panic_are_refused(
    name: str, tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(_plain_tokenizer(**PANICS[name]))
    line = refused(lambda: huggingface.HuggingFaceVocabulary(str(path), pad_id=-1))
    assert "tokenizer.json" in line
    assert not capfd.readouterr().err


def test_a_word_without_an_id_is_one_line(tmp_path: pathlib.Path) -> None:
    model = {"type": "WordLevel", "vocab": {"<pad>": 0, "a": 1, "</s>": 2}, "unk_token": "<unk>"}
    path = tmp_path / "tokenizer.json"
    path.write_bytes(_plain_tokenizer(model=model))
    vocabulary = huggingface.HuggingFaceVocabulary(str(path))
    assert "cannot read a text: WordLevel error" in refused(lambda: vocabulary.encode(b"b"))


def test_a_regular_expression_that_explodes_ends(tmp_path: pathlib.Path) -> None:
    normalizer = {"type": "Replace", "pattern": {"Regex": "(a|a)*(a|a)*b$"}, "content": "x"}
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated"}
    content = _plain_tokenizer(normalizer=normalizer, pre_tokenizer={**split, "invert": False})
    (tmp_path / "tokenizer.json").write_bytes(content)
    with cpu_limit(CPU_SECS):
        vocabulary = huggingface.HuggingFaceVocabulary(str(tmp_path / "tokenizer.json"))
        with pytest.raises(data.DataError, match="the tokenizer cannot read a text"):
            vocabulary.encode(b"a" * 60 + b"!")
