"""What training says before its first step, of kinds of data that the commands' tests lack."""

from __future__ import annotations

import pathlib
import shlex
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest

from mtfrun.data import ByteVocabulary, IdVocabulary
from mtfrun.data.token_cache import Cached
from mtfrun.experiment import run_summary


def _data(**attributes: Any) -> Any:
    nothing: dict[str, Any] = {"vocabularies": {}, "class_names": {}, "cached_tasks": []}
    return types.SimpleNamespace(**{"has_text": False, **nothing, **attributes})


def _of_tasks(number: int, files: Sequence[str], examples: int) -> Any:
    """Data of tasks that are made of the same files."""
    counts = {"examples": examples, "tokens": 300, "bytes": 1000}
    caches = [
        Cached(f"task_{i}", "train", counts, pathlib.Path(), "", files=files) for i in range(number)
    ]
    return _data(cached_tasks=[cached.title for cached in caches], caches=lambda _: caches)


def test_the_data_are_named_with_their_files_and_sizes() -> None:
    one, two = _of_tasks(1, ["/a/b.txt"], 1), _of_tasks(2, ["c\n.txt", "d.txt"], 20)
    assert run_summary._data(one) == (
        "SimpleNamespace of task_0: 1 example, 300 tokens, 1,000 bytes of /a/b.txt"
    )
    assert run_summary._data(two) == (
        "SimpleNamespace of task_0, task_1: 40 examples, 600 tokens, 2,000 bytes of 2 files: "
        "c\\n.txt, d.txt"
    )
    assert run_summary._data(_data()) == "SimpleNamespace"


def test_a_mixture_names_its_first_tasks() -> None:
    assert "of task_0, task_1, task_2 and 2 more: 10 examples" in run_summary._data(
        _of_tasks(5, [], 2)
    )


def test_vocabularies_are_named_once_or_by_feature() -> None:
    shared, other = ByteVocabulary(), IdVocabulary(50)
    of_pairs = _data(vocabularies={"inputs": shared, "targets": shared})
    assert run_summary._vocabulary(of_pairs) == {"vocabulary": "ByteVocabulary, 384 ids"}
    of_two = _data(vocabularies={"inputs": shared, "targets": other})
    assert run_summary._vocabulary(of_two) == {
        "vocabulary": f"inputs: ByteVocabulary, 384 ids; targets: IdVocabulary, {other.size} ids"
    }
    assert run_summary._vocabulary(_data(class_names={"labels": ["a"] * 1000})) == {
        "classes": "1,000"
    }
    assert run_summary._vocabulary(_data()) == {}


def test_large_numbers_of_tokens_are_rounded() -> None:
    rounded = [run_summary._round(x) for x in (999_999, 4_096_000, 123_456_789, 2_500_000_000)]
    assert rounded == ["999,999", "4.1 million", "123 million", "2.5 billion"]


def test_tensorboard_is_called_by_its_path_unless_the_shell_finds_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    programs = pathlib.Path(sys.executable).parent
    monkeypatch.setenv("PATH", "/nowhere")
    words = shlex.split(run_summary.tensorboard_command("/tmp/my run"))
    assert words == [str(programs / "tensorboard"), "--logdir", "/tmp/my run"]
    assert pathlib.Path(words[0]).exists()
    monkeypatch.setenv("PATH", str(programs))
    assert run_summary.tensorboard_command("/tmp/run") == "tensorboard --logdir /tmp/run"
