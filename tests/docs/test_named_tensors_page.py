"""The page on named tensors shows an example that runs; names on its references exist."""

from __future__ import annotations

import importlib.util
import pathlib
import re
from types import ModuleType

import pytest

from mtfrun import decoding, layers, mtf
from mtfrun.extras.mesh_tensorflow import parity
from mtfrun.models import transformer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

DOCS = pathlib.Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "named_tensors.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits_example", DOCS / "digits_example.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def on_one_device(example: ModuleType) -> tuple[list[float], float]:
    return example.train_and_test(mtf.Mesh())


def test_the_example_learns(on_one_device: tuple[list[float], float]) -> None:
    losses, accuracy = on_one_device
    assert losses[0] > 2.0 and losses[-1] < 0.3
    assert accuracy > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh_shape, layout",
    [
        ("data:4,model:2", "batch:data;hidden:model"),
        ("data:2,model:2", "row_blocks:data;batch:model"),
    ],
)
def test_a_layout_does_not_change_the_example(
    example: ModuleType, on_one_device: tuple[list[float], float], mesh_shape: str, layout: str
) -> None:
    assert f'"{mesh_shape}" "{layout}"' in PAGE
    losses, accuracy = example.train_and_test(mtf.Mesh(mesh_shape, layout))
    assert_close(losses, on_one_device[0], FLOAT32_MODEL_TOLERANCE)
    assert accuracy == pytest.approx(on_one_device[1], abs=1 / 400)


def test_the_page_shows_the_example() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert shown == (DOCS / "digits_example.py").read_text(encoding="utf-8")


def test_every_name_on_the_pages_exists() -> None:
    ported = (DOCS / "extras/mesh_tensorflow.md").read_text(encoding="utf-8")
    rows = [line.strip("| ") for line in ported.splitlines() if line.startswith("|")]
    # The first cell of these rows is Mesh TensorFlow's.
    text = "".join(row.partition(" | ")[2] for row in rows)
    text += (DOCS / "layout_reference.md").read_text(encoding="utf-8")
    names = set(re.findall(r"\b(mtf|layers|parity|transformer|decoding)\.(\w+)", text))
    assert len(names) > 60
    rooms = {"layers": layers, "transformer": transformer, "decoding": decoding}
    modules = {"mtf": mtf, "parity": parity, **rooms}
    assert not {f"{m}.{name}" for m, name in names if not hasattr(modules[m], name)}
