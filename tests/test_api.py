"""`import mtfrun` is quick, and what it exports has types."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

import mtfrun
from tests.cli.command import ROOT, environment


def _run(*arguments: str, cwd: pathlib.Path) -> str:
    """Returns what Python prints, with this checkout as the installed package."""
    process = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**environment(), "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)},
        timeout=300,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def test_the_import_loads_no_large_package(tmp_path: pathlib.Path) -> None:
    code = (
        "import mtfrun, sys\n"
        "print(mtfrun.configs()['runs/quickstart.gin'].cost[:3])\n"
        "print([name for name in ('tensorflow', 'numpy', 'gin') if name in sys.modules])"
    )
    assert _run("-c", code, cwd=tmp_path).split("\n")[:2] == ["3.1", "[]"]


def test_every_shipped_configuration_says_its_facts() -> None:
    configs = mtfrun.configs()
    assert {"defaults.gin", "models/lm_small.gin", "runs/quickstart.gin"} <= configs.keys()
    for name, header in configs.items():
        assert header.name == name
        assert header.command.startswith("mtfrun ") and header.overridden
        assert header.description and header.cost
    switch = configs["models/moe_switch_tiny.gin"]
    assert switch.paper is not None and "2101.03961" in switch.paper
    small = configs["models/lm_small.gin"]
    assert small.result == 'row "baseline" of docs/results/transformer.md'
    quickstart = configs["runs/quickstart.gin"].result
    assert quickstart is not None and " bits per byte of the validation split" in quickstart
    assert small.description.startswith("A language model of 3.3 million parameters over bytes.\n")
    assert small.overridden["NUM_HEADS, D_KV"] == "attention heads and their size"
    assert small.command.endswith("\\\n--gin_file=data/python_docs.gin --model_dir=/tmp/lm_small")


@pytest.mark.slow
def test_a_type_checker_sees_the_types_from_outside(tmp_path: pathlib.Path) -> None:
    (tmp_path / "use.py").write_text(
        "import mtfrun\n"
        "run = mtfrun.load('/tmp/run')\n"
        "reveal_type(run)\n"
        "reveal_type(run.decode(['a'])[0].output)\n"
        "reveal_type(run.score([('a', 'b')])[0].log_likelihood)\n"
        "reveal_type(mtfrun.train('a.gin', model_dir='b', TRAIN_STEPS=1).evaluate())\n"
        "reveal_type(mtfrun.configs()['x'].command)\n"
    )
    output = _run("-m", "mypy", "--ignore-missing-imports", "use.py", cwd=tmp_path)
    revealed = [line.split('"')[1] for line in output.splitlines() if "Revealed type" in line]
    assert revealed == ["mtfrun.experiment.runs.run.Run", "str", "float", "dict[str, float]", "str"]


_PROGRAM = """
import gc, sys
from mtfrun.display.tensorflow_import import import_tensorflow
with import_tensorflow():
    import tensorflow as tf
    import mtfrun.experiment.runs.run_training
assert gc.isenabled()
assert "keras" not in sys.modules
assert tf.keras.layers.Dense(3)(tf.ones([1, 2])).shape == [1, 3]
"""


@pytest.mark.slow
def test_keras_is_imported_where_a_user_needs_it(tmp_path: pathlib.Path) -> None:
    _run("-c", _PROGRAM, cwd=tmp_path)
