"""Arguments in Python: each of a wrong type is one InputError, before anything is built."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mtfrun
from mtfrun.configuration.arguments import list_of, literal_bindings, pairs_of, paths_of, texts_of
from mtfrun.configuration.published import is_configurable, load_published, signature_of
from mtfrun.configuration.ranges import _OF_NAMES
from mtfrun.errors import ConfigError, InputError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mtfrun.load(5), "model_dir=5: it must be a path"),  # type: ignore[arg-type]
        (lambda: mtfrun.load(b"/tmp/run"), "model_dir=b'/tmp/run'"),  # type: ignore[arg-type]
        (lambda: mtfrun.load("x", checkpoint=1.5), "checkpoint=1.5"),  # type: ignore[arg-type]
        (lambda: mtfrun.load("x", checkpoint=True), "checkpoint=True: it must be a step"),
        (lambda: mtfrun.load("x", checkpoint="newest"), "checkpoint='newest'"),
        (lambda: mtfrun.load("x", mesh=4), "mesh=4: it must be a text"),  # type: ignore[arg-type]
        (lambda: mtfrun.load("x", layout=["a"]), r"layout=\['a'\]"),  # type: ignore[arg-type]
        (lambda: mtfrun.load("x", gin_files=3), "gin_files are a list"),  # type: ignore[arg-type]
        (lambda: mtfrun.load("x", gin_files=[3]), "gin_files=3"),  # type: ignore[list-item]
        (lambda: mtfrun.load("x", gin_params="A = 1"), r"gin_params are a list: \['A = 1'\]"),
        (lambda: mtfrun.load("x", gin_params=[1]), "gin_params are texts"),  # type: ignore[list-item]
        (lambda: mtfrun.load("x", gin_allow_imports="my"), "gin_allow_imports are a list"),
        (lambda: mtfrun.load("x", SEED=np.zeros([2, 2])), r"SEED=array\(\[\[0., 0.\]"),
        (lambda: mtfrun.train("x", None), "model_dir=None"),  # type: ignore[arg-type]
        (lambda: mtfrun.train("x", "y", restart="no"), "restart='no'"),  # type: ignore[arg-type]
    ],
)
def test_loading_and_training_refuse_arguments_of_wrong_types(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [5, None, "text", b"text", {"a": 1}, {"a"}, np.zeros(())])
def test_a_list_is_anything_in_order_but_a_text(value: Any) -> None:
    with pytest.raises(InputError, match=r"prompts are a list: \[(\"def \"\], not |b?'text'\]$)"):
        texts_of(value)


def test_lists_arrays_and_generators_of_texts_are_taken() -> None:
    expected = [b"a", b"\xff", "\u00fc".encode()]
    for texts in (["a", b"\xff", "\u00fc"], ("a", b"\xff", "\u00fc"), (x for x in expected)):
        assert texts_of(texts) == expected
    assert texts_of(np.array(["a", "b"])) == [b"a", b"b"]
    assert pairs_of([("a", b"b"), ["c", "d"], np.array(["e", "f"])])[2] == (b"e", b"f")
    assert paths_of(pathlib.Path("/x"), "gin_files") == paths_of(["/x"], "gin_files") == ["/x"]
    assert len(list_of(np.zeros([2, 3]), "images", "")) == 2


@pytest.mark.parametrize("prompt", [5, None, 1.5, ["a"], ("a",), np.zeros(2)])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    with pytest.raises(InputError, match=r"prompts\[1\] is a text or bytes, not "):
        texts_of(["a", prompt])


@pytest.mark.parametrize(
    "pair",
    [
        *("ab", b"ab", ("a",), ("a", "b", "c"), 5, None, {"a": "b"}, ("a", 5), (None, "b")),
        np.zeros(()),
    ],
)
def test_a_pair_is_two_texts(pair: Any) -> None:
    with pytest.raises(InputError, match=r"pairs\[0\]"):
        pairs_of([pair])


def test_values_are_written_as_gin_reads_them() -> None:
    values = {
        "A": np.float32(0.5),
        "B": pathlib.Path("/data/it's"),
        "C": {"train": ["a", None], "test": (1, True)},
        "scope/FeedForward.d_ff": 512,
        "D": "%E",
    }
    assert [text for _, text in literal_bindings(values)] == [
        "A = 0.5",
        'B = "/data/it\'s"',
        "C = {'train': ['a', None], 'test': (1, True)}",
        "scope/FeedForward.d_ff = 512",
        "D = %E",
    ]


@pytest.mark.parametrize("value", [float("nan"), object(), print, np.zeros(2), {1, "x", 2.5}.union])
def test_values_that_gin_cannot_write_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^X=.* is not a Python literal; what gin "):
        literal_bindings({"X": value})


def _parameters() -> dict[str, list[object]]:
    defaults: dict[str, list[object]] = {}
    for target in load_published().values():
        if is_configurable(target):
            for name, parameter in signature_of(target).items():
                defaults.setdefault(name, []).append(parameter.default)
    return defaults


def test_every_range_is_that_of_a_parameter() -> None:
    assert set(_OF_NAMES) - set(_parameters()) == set()


def test_all_defaults_are_allowed() -> None:
    defaults = _parameters()
    for name, allowed in _OF_NAMES.items():
        for default in defaults[name]:
            numbers = default if isinstance(default, list | tuple) else [default]
            for number in numbers:
                if isinstance(number, int | float) and not isinstance(number, bool):
                    assert number in allowed, f"{name}={number}"
