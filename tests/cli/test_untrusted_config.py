"""The configuration of a run directory, which may come from anybody, runs mtfrun's code only."""

from __future__ import annotations

import pathlib

import pytest

from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment


@pytest.fixture
def modules(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A directory on Python's path."""
    monkeypatch.syspath_prepend(tmp_path / "modules")
    return tmp_path / "modules"


def test_a_command_refuses_another_module(run_copy: pathlib.Path, modules: pathlib.Path) -> None:
    modules.mkdir()
    (modules / "evil.py").write_text(f"open({str(modules)!r} + '/executed', 'w').close()\n")
    config = run_copy / "config.gin"
    config.write_text(f"{config.read_text()}\nimport evil\n")
    line = error_line(mtfrun_here("decode", "--prompt=x", f"--model_dir={run_copy}"))
    assert "the run's configuration imports evil" in line
    assert not (modules / "executed").exists()


@pytest.mark.slow
def test_a_run_says_what_it_was_trained_with(tmp_path: pathlib.Path, modules: pathlib.Path) -> None:
    """A run with a user's own class can be read with one flag, which the error names."""
    mine = modules / "my_package/vocabulary.py"
    mine.parent.mkdir(parents=True)
    (mine.parent / "__init__.py").write_text("from my_package.vocabulary import Mine\n")
    mine.write_text("from mtfrun.data import ByteVocabulary\nclass Mine(ByteVocabulary): pass\n")
    (tmp_path / "mine.gin").write_text(
        "from __gin__ import dynamic_registration\nfrom mtfrun import data\nimport my_package\n"
        "data.Task.vocabulary = @my_package.Mine()\n"
    )
    run = tmp_path / "run"
    flags = [*tiny_experiment(tmp_path), f"--gin_file={tmp_path}/mine.gin"]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={run}"))
    line = error_line(mtfrun_here("eval", f"--model_dir={run}"))
    assert "imports my_package: " in line
    assert "trained with my_package)" in line
    allowed = mtfrun_here("eval", f"--model_dir={run}", "--gin_allow_imports=other,my_package")
    named = mtfrun_here("eval", f"--model_dir={run}", f"--gin_file={run}/config.gin")
    assert succeeded(allowed) == succeeded(named)
