"""Which modules gin files find."""

from __future__ import annotations

import pathlib
import sys

import pytest

from mtfrun.cli.main import main

LM = ["--gin_file=defaults.gin", "--gin_file=models/lm_tiny.gin", "--gin_file=data/python_docs.gin"]


@pytest.fixture(autouse=True)
def _program(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the program `mtfrun`, which begins with the folder of the program."""
    (tmp_path / "models_of_this_folder.py").write_text(
        "from mtfrun.data import ByteVocabulary\nclass Mine(ByteVocabulary): pass\n"
    )
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models_of_this_folder", raising=False)


def test_a_gin_file_imports_from_the_working_directory(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mtfrun import data\n"
        "import models_of_this_folder\n"
        "data.LanguageModelData.vocabulary = @models_of_this_folder.Mine()\n"
    )
    assert main(["train", "--dry_run", *LM, "--gin_file=mine.gin"]) == 0, capsys.readouterr().err
    # What is installed comes first: a file called tensorflow.py replaces nothing.
    assert sys.path[-1] == str(tmp_path)


@pytest.mark.parametrize("tiny_run", ["language model"], indirect=True)
def test_a_run_from_elsewhere_brings_no_modules(tiny_run: str) -> None:
    before = list(sys.path)
    assert main(["eval", f"--model_dir={tiny_run}"]) == 0
    assert sys.path == before
    allowed = ["--gin_allow_imports=models_of_this_folder"]
    assert main(["eval", f"--model_dir={tiny_run}", *allowed]) == 0
    assert sys.path == [*before, str(pathlib.Path.cwd())]
