"""Contents and preparation of the embedded datasets."""

from __future__ import annotations

import collections
import dataclasses
import platform
import pydoc_data.topics
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from mtfrun.data import DataError, Tfds
from mtfrun.data.sources.embedded_datasets import (
    LARGEST_NUMBER,
    PYTHON_DOCS,
    PYTHON_SOURCE,
    EmbeddedDataset,
    distinct_topics,
    is_held_out,
    running_python,
    shuffled_numbers,
    source_files,
    spell,
)
from mtfrun.data.splits import SPLITS, split_of

LIBRARY = Path(sysconfig.get_path("stdlib"))


def prepare(dataset: EmbeddedDataset, data_dir: Path) -> tfds.core.DatasetBuilder:
    return Tfds(dataset.name, data_dir=str(data_dir)).builder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("data"))


def named_documents(builder: tfds.core.DatasetBuilder, split: str) -> dict[str, bytes]:
    examples = builder.as_dataset(split=split).as_numpy_iterator()
    return {example["name"].decode(): example["text"] for example in examples}


def test_python_docs_holds_each_distinct_topic_in_the_split_of_its_name(data_dir: str) -> None:
    builder = prepare(PYTHON_DOCS, Path(data_dir))
    expected = distinct_topics(pydoc_data.topics.topics)
    assert "compound" in expected and "while" not in expected
    for split in SPLITS:
        names = {name: text.encode() for name, text in expected.items() if split_of(name) == split}
        assert named_documents(builder, split) == names
        assert names


def test_no_held_out_topic_is_repeated_in_a_topic_that_is_trained_on(data_dir: str) -> None:
    builder = prepare(PYTHON_DOCS, Path(data_dir))
    trained = b"\n\n".join(named_documents(builder, "train").values())
    for split in ("validation", "test"):
        for name, text in named_documents(builder, split).items():
            body = [part for part in text.split(b"\n\n")[1:] if part.strip()]
            repeated = sum(len(part) for part in body if part.strip() in trained)
            assert 2 * repeated < sum(map(len, body)) or not body, name


def test_python_source_holds_the_library_byte_for_byte_without_its_tests(data_dir: str) -> None:
    builder = prepare(PYTHON_SOURCE, Path(data_dir))
    documents = {}
    for split in SPLITS:
        in_split = named_documents(builder, split)
        assert all(split_of(name) == split for name in in_split)
        documents.update(in_split)
    assert {"ast.py", "asyncio/base_events.py", "json/decoder.py"} <= set(documents)
    assert documents["ast.py"] == (LIBRARY / "ast.py").read_bytes()
    assert len(documents) > 300
    excluded = {"test", "tests", "idle_test", "site-packages", "encodings", "lib2to3"}
    assert not any(excluded & set(name.split("/")[:-1]) for name in documents)


def test_source_files_are_sorted_and_exclude_files_that_differ_between_machines(
    tmp_path: Path,
) -> None:
    expected = ["a.py", "pkg/b.py", "pkg/deep/c.py"]
    excluded = [
        *("test/x.py", "pkg/tests/y.py", "site-packages/z.py", "readme.txt"),
        *("_sysconfigdata__linux.py", "config-3.11/m.py", "sitecustomize.py"),
    ]
    for name in [*expected, *excluded]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert source_files(tmp_path) == expected


def test_undecodable_and_empty_source_files_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    texts = {f"m{i}.py": f"x = {i}\r\n\0".encode() for i in range(60)}
    for name, text in {**texts, "latin.py": b"# \xe9\n", "empty.py": b""}.items():
        (library / name).write_bytes(text)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    builder = prepare(PYTHON_SOURCE, tmp_path / "data")
    documents = {}
    for split in SPLITS:
        documents.update(named_documents(builder, split))
    assert documents == texts


def test_a_python_without_the_library_or_the_topics_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"python_source: no \.py file under .*use python_docs$"):
        prepare(PYTHON_SOURCE, tmp_path / "data")
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    expected = r"python_docs: .* has no pydoc_data\.topics.*python_source$"
    with pytest.raises(DataError, match=expected):
        prepare(PYTHON_DOCS, tmp_path / "data")


def test_the_prepared_copy_belongs_to_one_version_of_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Path(prepare(PYTHON_DOCS, tmp_path).data_dir)
    monkeypatch.setattr(platform, "python_version", lambda: "3.99.1rc2+")
    config = running_python()
    assert config.name == f"{sys.implementation.name}_3_99_1rc2"
    other = dataclasses.replace(PYTHON_DOCS, config=config).directory(tmp_path)
    assert running.relative_to(tmp_path).parts[0] == other.relative_to(tmp_path).parts[0]
    assert running != other and running.exists() and not other.exists()


PREPARE = """
import sys
from mtfrun.data import Tfds
source = Tfds("python_source", data_dir=sys.argv[1])
sys.stdout.write(str(sum(len(example.fields["text"]) for example in source.examples("test"))))
"""


@pytest.mark.slow
def test_processes_that_prepare_concurrently_read_the_same_complete_copy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARE, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    # Nothing but the program's own output is in standard output.
    assert len({output for output, _ in outputs}) == 1 and int(outputs[0][0]) > 100_000
    assert not list(tmp_path.rglob("incomplete.*"))


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    version = PYTHON_DOCS.directory(tmp_path)
    abandoned = version.parent / f"incomplete.ABCDEF_{version.name}"
    abandoned.mkdir(parents=True)
    (abandoned / "partial.tfrecord").write_bytes(b"partial")
    prepare(PYTHON_DOCS, tmp_path)
    assert version.exists() and not abandoned.exists()


def test_an_unusable_data_dir_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        prepare(PYTHON_DOCS, tmp_path / "file" / "below")
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"cannot prepare python_docs in {tmp_path}/file")
    assert line.endswith("give a writable data_dir or set TFDS_DATA_DIR")


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"),
        (99, "ninety-nine"),
        (305, "three hundred five"),
        (12_345, "twelve thousand three hundred forty-five"),
        (700_001, "seven hundred thousand one"),
    ],
)
def test_numbers_are_spelt_as_in_english(number: int, words: str) -> None:
    assert spell(number) == words


def test_spellings_are_distinct_and_the_longest_has_64_characters() -> None:
    spelt = [spell(number) for number in range(0, LARGEST_NUMBER + 1, 7)]
    assert len(set(spelt)) == len(spelt)
    assert max(len(spell(1000 * n + n)) for n in range(1, 1000)) == 64


def test_numbers_out_of_range_are_errors() -> None:
    for number in (-1, LARGEST_NUMBER + 1):
        with pytest.raises(ValueError, match="must be between 0 and 999999"):
            spell(number)


@pytest.mark.slow
def test_five_percent_are_held_out_and_every_number_occurs_once() -> None:
    numbers = list(shuffled_numbers())
    assert len(set(numbers)) == len(numbers) == LARGEST_NUMBER + 1
    counts = collections.Counter(map(is_held_out, numbers))
    assert counts == {False: 950_162, True: 49_838}
