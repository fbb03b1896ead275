"""The modules that gin files can import."""

from __future__ import annotations

import pathlib
import sys

import pytest

from mtfrun.cli.main import main

LM = ["--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", "--gin_file=data/python_docs.gin"]


@pytest.fixture(autouse=True)
def _program(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's path as it is in the program `mtfrun`, which is a script."""
    (tmp_path / "models_of_this_folder.py").write_text(
        "from mtfrun.data import ByteVocabulary\nclass Mine(ByteVocabulary): pass\n"
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models_of_this_folder", raising=False)


def _dry_run(tmp_path: pathlib.Path, vocabulary: str) -> int:
    """Returns the exit code with a vocabulary of the module of this folder."""
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mtfrun import data\n"
        "import models_of_this_folder\n"
        f"data.Task.vocabulary = @models_of_this_folder.{vocabulary}()\n"
    )
    return main(["train", "--dry_run", *LM, "--gin_file=mine.gin"])


def test_a_gin_file_imports_from_the_working_directory(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _dry_run(tmp_path, "Mine") == 0, capsys.readouterr().err
    # Installed modules come first: a file tensorflow.py does not replace TensorFlow.
    assert sys.path[-1] == str(tmp_path)


def test_the_configuration_of_a_run_does_not_extend_the_path(
    language_model_run: pathlib.Path,
) -> None:
    before = list(sys.path)
    assert main(["eval", f"--model_dir={language_model_run}"]) == 0
    assert sys.path == before
    allowed = ["--gin_allow_imports=models_of_this_folder"]
    assert main(["eval", f"--model_dir={language_model_run}", *allowed]) == 0
    assert sys.path == [*before, str(pathlib.Path.cwd())]


def test_the_line_of_a_mistake_in_a_module_of_ones_own_is_named(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "models_of_this_folder.py").write_text(
        "from mtfrun import mtf\n"
        "def mine():\n"
        '    return mtf.Shape([mtf.Dimension("d_model", 8)]).index(mtf.Dimension("d_mode", 8))\n'
    )
    assert _dry_run(tmp_path, "mine") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("did you mean 'd_model'? (models_of_this_folder.py:3)"), line
