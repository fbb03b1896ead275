"""Run directories made of imported models appear whole or not at all."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.tools.conversion import ConversionError, Imported, values_of_run, write_run

MESH = mtf.Mesh("data:1", "")


def _variables(directory: pathlib.Path) -> tuple[dict[str, mtf.Variable], list[str]]:
    variables = {
        "model/table": mtf.Variable(MESH, [mtf.Dimension("vocab", 3)]),
        "optimizer/table/m": mtf.Variable(MESH, [mtf.Dimension("vocab", 3)]),
        "step": mtf.Variable(MESH, [], dtype="int64"),
    }
    return variables, [str(directory.parent / "tokenizer/a.model")]


def _imported(table: np.ndarray) -> Imported:
    return Imported(
        config=lambda directory: f"# {directory}\n",
        values=lambda variables: {"model/table": table},
        step=7,
        files={"tokenizer/a.model": b"pieces"},
        record={"format": "none"},
    )


def test_a_run_has_its_configuration_values_step_files_and_record(tmp_path: pathlib.Path) -> None:
    target = tmp_path / "run"
    table = np.array([1.0, 2.0, 3.0], np.float32)
    run = write_run(_imported(table), str(target), _variables)
    # The text names the final directory, though it was built in another one.
    assert run.read_config() == f"# {target}\n"
    values = values_of_run(run)
    assert values.step == 7
    assert list(values.values) == ["table"]
    np.testing.assert_array_equal(values.values["table"], table)
    slots = run.checkpoints().read(None, lambda manifest: list(manifest.variables))
    assert "optimizer/table/m" in slots
    assert (target / "tokenizer/a.model").read_bytes() == b"pieces"
    assert json.loads((target / "import.json").read_text()) == {"format": "none"}
    copies = json.loads((target / "files.json").read_text())["copies"]
    assert [*copies] == [str(target / "tokenizer/a.model")]
    assert copies[str(target / "tokenizer/a.model")]["file"] == "tokenizer/a.model"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_values_that_do_not_fit_leave_nothing_behind(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match=r"model/table has sizes \[4\], not \[3\]"):
        write_run(_imported(np.zeros([4])), str(tmp_path / "run"), _variables)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_holds_something_is_refused_and_left_as_it_is(
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(ConversionError, match="is not empty"):
        write_run(_imported(np.zeros([3])), str(tmp_path / "run"), _variables)
    assert (tmp_path / "run" / "mine.txt").read_text() == "mine"
