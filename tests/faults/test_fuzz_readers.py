"""Readers of prompts, caches, images and gin files answer any bytes with a value or one line."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import json
import lzma
import pathlib
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mtfrun import data
from mtfrun.checkpoints.checkpoints import Checkpoints
from mtfrun.checkpoints.manifest import _digest, read_manifest
from mtfrun.cli.inputs_and_outputs import read_pairs, read_prompts
from mtfrun.configuration import config
from mtfrun.configuration.statements import Statements
from mtfrun.data.cache.directory import _sum_of, write_manifest
from mtfrun.data.cache.tokens import TokenCache, open_cache
from mtfrun.data.images.idx_images import read_idx
from mtfrun.data.images.image_cache import ImageCache
from mtfrun.data.images.image_files import encode_image, size_of
from mtfrun.data.rows.packing import Plan, stored_plan
from mtfrun.experiment.runs.opening import ROOTS
from mtfrun.extras import huggingface
from tests.faults.fuzzing import KINDS, damaged, fuzz

pytestmark = pytest.mark.parametrize("count", KINDS)

JSONL = [
    b'{"input": "the quick", "target": "brown fox"}\n{"input": "a\\tb", "target": "c"}\n',
    b'{"inputs": "x", "targets": "y", "more": [1, {"a": null}]}\n"a prompt"\n',
]
CSV = [b'input,target\r\n"a, ""b""",c\r\n', b'inputs,targets\n"a\nb",c\n\nd,e\n']
TSV = [b"the quick\tbrown fox\na\tb\r\n", b"no tab\n\t\n"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.tsv", "x.txt", "x.csv"])
def test_prompts_and_pairs(name: str, count: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name

    def read(content: bytes) -> None:
        path.write_bytes(content)
        prompts = read_prompts(str(path))
        assert all(isinstance(prompt, bytes) for prompt in prompts)
        assert len(read_pairs(str(path))) == len(prompts)

    fuzz(count, damaged({"x.jsonl": JSONL, "x.csv": CSV}.get(name, TSV)), read)


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.tsv", "x.txt", "x.csv", "x.jsonl.gz", "x.jsonl.bz2", "x.jsonl.xz"]
)
def test_sources(name: str, count: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / name
    kind = {"x.tsv": data.Tsv, "x.csv": data.Tsv, "x.txt": data.TextLines}
    source = kind.get(name, data.JsonLines)
    valid = {"x.tsv": TSV, "x.csv": CSV}.get(name, JSONL)
    compress: dict[str, Callable[[bytes], bytes]] = {
        ".gz": functools.partial(gzip.compress, mtime=0),
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
    }
    if path.suffix in compress:
        valid = [compress[path.suffix](content) for content in valid]

    def read(content: bytes) -> None:
        path.write_bytes(content)
        for example in source({"train": str(path)}).examples("train"):
            assert example

    fuzz(count, damaged(valid), read)


@pytest.mark.parametrize("is_signed", [False, True], ids=["any hash", "its hash"])
def test_manifests(is_signed: bool, count: int, tmp_path: pathlib.Path) -> None:
    variables = {"a/kernel": tf.Variable(tf.zeros([2, 3])), "step": tf.Variable(3)}
    Checkpoints(tmp_path).save(3, variables, metadata={"seed": 1, "mesh": "data:1", "layout": ""})
    path = tmp_path / "ckpt-3.json"
    text = path.read_bytes()
    before = {p.name: p.read_bytes() for p in tmp_path.glob("ckpt-3.[id]*") if p != path}

    def read(content: bytes) -> None:
        path.write_bytes(_signed(content) if is_signed else content)
        read_manifest(tmp_path, 3)
        Checkpoints(tmp_path).verify(3)

    pieces = [b'"../../x"', b'"ckpt-3.index"', b'"bytes": 1e400', b"-1", b"true", b"[[[[]]]]"]
    fuzz(count, damaged([text], pieces), read)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def _signed(content: bytes) -> bytes:
    """Returns a manifest with the hash that its changed content should have."""
    try:
        fields = json.loads(content)
        del fields["sha256"]
        return json.dumps({**fields, "sha256": _digest(fields)}).encode()
    except (ValueError, TypeError, KeyError, RecursionError):
        return content


@functools.cache
def _images() -> list[bytes]:
    images = []
    for mode, kind in [
        *((mode, "PNG") for mode in ("RGB", "L", "RGBA", "P", "I;16")),
        ("L", "JPEG"),
    ]:
        file = io.BytesIO()
        Image.new(mode, (5, 4)).save(file, kind)
        images.append(file.getvalue())
    return images


@pytest.mark.parametrize("is_checked", [False, True], ids=["any checksum", "its checksums"])
def test_images(is_checked: bool, count: int) -> None:
    def read(content: bytes) -> None:
        content = _with_checksums(content) if is_checked else content
        image = encode_image(content, 3, "image")
        assert size_of(image.content) == image.size == encode_image(content, 1, "image").size

    fuzz(count, damaged(_images()), read)


def _with_checksums(content: bytes) -> bytes:
    """Returns a PNG file whose chunks have the checksums of their damaged content."""
    result, position = content[:8], 8
    while position + 8 <= len(content):
        size = min(int.from_bytes(content[position : position + 4], "big"), len(content))
        chunk = content[position + 4 : position + 8 + size]
        result += content[position : position + 4] + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        position += 12 + size
    return result


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files(suffix: str, count: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "images"
    header = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 2, 3))
    valid = [header + bytes(range(12))]
    if suffix:
        valid = [gzip.compress(content, mtime=0) for content in valid]

    def read(content: bytes) -> None:
        pathlib.Path(f"{path}{suffix}").write_bytes(content)
        assert read_idx(str(path), 3).ndim == 3

    fuzz(count, damaged(valid), read)


@pytest.mark.parametrize("name", ["manifest.json", "ends.npy", "tokens.bin"])
@pytest.mark.parametrize("is_forged", [False, True])
def test_token_caches(name: str, is_forged: bool, count: int, tmp_path: pathlib.Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nbc\n")
    source = data.TextLines({"train": str(tmp_path / "texts.txt")})
    task = data.Task(source, data.ByteVocabulary(), cache_dir=str(tmp_path))
    directory = open_cache(task, "train", ["targets"]).directory
    valid = (directory / name).read_bytes()

    def read(content: bytes) -> None:
        (directory / name).write_bytes(content)
        if is_forged:
            resign(directory, name)
        cache = TokenCache.open(directory)
        assert len(cache.fingerprint) == 64 and len(cache.lengths) == len(cache)
        assert (cache.lengths > 0).all()

    fuzz(count, damaged([valid]), read)


def resign(directory: pathlib.Path, name: str) -> None:
    """Updates the sums of a cache, so that only its content can be wrong."""
    manifest = directory / "manifest.json"
    try:
        entries = json.loads(manifest.read_bytes())
        if name != manifest.name:
            entries["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        del entries["sum"]
        manifest.write_text(json.dumps({**entries, "sum": _sum_of(entries)}))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return  # no manifest at all


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")  # headers of Python 2
@pytest.mark.parametrize("name", ["manifest.json", "labels.npy"])
def test_image_caches(name: str, count: int, tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "labels.npy", np.arange(2, dtype=np.int32))
    (tmp_path / "images.bin").write_bytes(bytes(24))
    manifest = {"images": 2, "size": [2, 2, 3], "label_names": ["a", "b"], "sha256": "0" * 64}
    write_manifest(tmp_path, manifest)
    valid = (tmp_path / name).read_bytes()

    def read(content: bytes) -> None:
        (tmp_path / name).write_bytes(content)
        cache = ImageCache(tmp_path)
        assert cache.pixels is not None and len(cache) == len(cache.pixels)

    fuzz(count, damaged([valid]), read)


@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")  # headers of Python 2
def test_plans_of_rows(count: int, tmp_path: pathlib.Path) -> None:
    plan = Plan(np.arange(3), np.array([0, 1, 3]))
    stored_plan(tmp_path, "x", 3, lambda: plan)
    (path,) = tmp_path.glob("plan-*.npz")
    valid = path.read_bytes()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        stored = stored_plan(tmp_path, "x", 3, lambda: plan)
        assert stored.examples.size == 3 == stored.row_starts[-1]

    fuzz(count, damaged([valid]), read)


@pytest.mark.parametrize("kind", ["sentencepiece", "hugging_face"])
def test_vocabularies(kind: str, count: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "vocabulary"
    make: Callable[[str], data.Vocabulary]
    if kind == "sentencepiece":
        make, valid = data.SentencePieceVocabulary, _sentencepiece(tmp_path)
    else:
        make, valid = huggingface.HuggingFaceVocabulary, json.dumps(TOKENIZER).encode()

    def read(content: bytes) -> None:
        path.write_bytes(content)
        vocabulary = make(str(path))
        assert vocabulary.size > 0
        vocabulary.encode(b"a b")

    fuzz(count, damaged([valid]), read)


TOKENIZER = {
    "version": "1.0",
    "added_tokens": [],
    "normalizer": {"type": "Replace", "pattern": {"Regex": "(a|b)*c"}, "content": "x"},
    "pre_tokenizer": {"type": "Whitespace"},
    "model": {
        "type": "WordLevel",
        "vocab": {"<pad>": 0, "a": 1, "</s>": 2, "<unk>": 3},
        "unk_token": "<unk>",
    },
}


def _sentencepiece(directory: pathlib.Path) -> bytes:
    from sentencepiece import sentencepiece_model_pb2 as pb2  # noqa: PLC0415

    model = pb2.ModelProto()  # type: ignore[attr-defined]
    for piece, kind in (("<pad>", 3), ("</s>", 3), ("<unk>", 2), ("a", 1), ("b", 1), ("\u2581", 1)):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    model.trainer_spec.unk_id, model.trainer_spec.pad_id = 2, 0
    model.trainer_spec.eos_id, model.trainer_spec.bos_id = 1, -1
    return bytes(model.SerializeToString())


GIN_FILES = ["defaults.gin", "models/lm_tiny.gin", "data/text_files.gin"]
# What replaces parts of a configuration, beside any bytes.
GIN_PIECES = [
    *(b"@data.Task()", b"@gin.singleton()", b"@gin.macro", b"%SEED", b"%gin.REQUIRED", b"@a/b.C()"),
    *(b"A = %A\n", b"A = %B\nB = [%A]\n", b"SEED = @mtf.Mesh()\n", b"seed = {[1]: 2}\n"),
    *(b"include 'x.gin'\n", b"include 'config.gin'\n", b"import os\n", b"from os import path\n"),
    *(b"import mtfrun.cli.main as data\n", b"experiment.Training.seed = 1\n", b"data = 1\n"),
    *(b"optim.Product:\n    factors = [1]\n", b"mtf.Mesh:\n", b"  ", b" = ", b".", b"/", b"()"),
    *(b"TASK/data.Task.name = 'x'\n", b"data.Task.__class__ = 1\n", b"@mtf.Mesh.__init__()"),
]


@pytest.fixture(scope="module")
def configuration() -> bytes:
    with config.exclusive():
        flags = [("a flag", "TEXT_FILES = 'texts/*.txt'")]
        config.parse(GIN_FILES, flags, roots=ROOTS)
        return config.config_text().encode()


def test_configurations_of_run_directories(
    count: int, configuration: bytes, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.gin"

    def read(content: bytes) -> None:
        path.write_bytes(content)
        with config.exclusive():
            bindings = config.parse([str(path)], [], roots=ROOTS, allowed_imports=())
            assert isinstance(bindings, list)

    lines = configuration.splitlines(keepends=True)
    fuzz(
        count,
        damaged([configuration, b"".join(lines[:40]), b"".join(lines[30:])], GIN_PIECES),
        read,
    )
    assert list(tmp_path.iterdir()) == [path], "nothing was written"


def test_bindings_of_flags(count: int) -> None:
    binding = b"X = [1, 'a', (2.0, None), {'k': @a.B()}]"

    def read(content: bytes) -> None:
        Statements().add_flag("--gin.X", content.decode("utf-8", "surrogateescape"))

    fuzz(count, damaged([b"SEED = 3", binding], GIN_PIECES), read)
