"""The configuration of a run directory, which may come from anybody, runs mtfrun's code only."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

import pytest

from mtfrun.configuration import config as config_module
from mtfrun.configuration.statements import Statements
from mtfrun.configuration.untrusted_configuration import check_untrusted
from mtfrun.errors import ConfigError
from mtfrun.experiment.runs.opening import ROOTS

BASE = ["defaults.gin", "models/lm_tiny.gin", "data/python_docs.gin"]


@pytest.fixture
def marker(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """A file that is created when one of some modules on the path is imported."""
    marker = tmp_path / "executed"
    code = f"open({str(marker)!r}, 'w').close()\ndef call(): return 0\n"
    modules = tmp_path / "modules"
    for name in ("evil", "my_models_evil", "mtfrun_evil", "__gin__evil", "pack/evil", "pack/a"):
        file = modules / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
    (modules / "my_models.py").write_text("from os import system\ndef seed(): return 3\n")
    monkeypatch.syspath_prepend(modules)
    for name in ("evil", "my_models_evil", "mtfrun_evil", "__gin__evil", "pack", "my_models"):
        for loaded in [m for m in sys.modules if m == name or m.startswith(f"{name}.")]:
            monkeypatch.delitem(sys.modules, loaded)
    return marker


@pytest.fixture
def run(tmp_path: pathlib.Path) -> pathlib.Path:
    config_module.parse(BASE, [], roots=ROOTS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.gin").write_text(config_module.config_text())
    return tmp_path / "run"


def _parse(run: pathlib.Path, *allowed: str, search_paths: Sequence[str] = ()) -> None:
    config_module.parse(
        [str(run / "config.gin")],
        [],
        search_paths=search_paths,
        roots=ROOTS,
        allowed_imports=allowed,
    )


def _refused(run: pathlib.Path, *allowed: str, search_paths: Sequence[str] = ()) -> str:
    with pytest.raises(ConfigError) as raised:
        _parse(run, *allowed, search_paths=search_paths)
    return str(raised.value)


def _add_statements(run: pathlib.Path, before: str, after: str = "") -> None:
    config = run / "config.gin"
    config.write_text(f"{before}\n{config.read_text()}\n{after}\n")


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("import evil", "evil"),
        ("import evil as data", "evil"),
        ("from pack import evil", "pack.evil"),
        ("import pack.evil", "pack.evil"),
        ("import \\\n    evil", "evil"),
        ("import mtfrun_evil", "mtfrun_evil"),
        ("import __gin__evil", "__gin__evil"),
        ("import my_models_evil", "my_models_evil"),
    ],
)
@pytest.mark.parametrize("dynamic", [True, False])
def test_another_modules_import_is_refused_before_anything_runs(
    text: str, module: str, dynamic: bool, run: pathlib.Path, marker: pathlib.Path
) -> None:
    before, after = ("", text) if dynamic else (text, "")
    _add_statements(run, before, after)
    line = _refused(run, "my_models")
    assert "config.gin:" in line and f"imports {module}:" in line
    assert f"--gin_allow_imports=my_models,{module} " in line
    assert "(the run says that it was trained with mtfrun alone)" in line
    assert not marker.exists()


def test_an_included_file_is_untrusted_as_well(
    run: pathlib.Path, tmp_path: pathlib.Path, marker: pathlib.Path
) -> None:
    """Also a file outside the run directory, which cannot make it trusted."""
    (tmp_path / "inner.gin").write_text("import evil\n")
    (tmp_path / "outer.gin").write_text('include "inner.gin"\n')
    _add_statements(run, "", 'include "outer.gin"')
    line = _refused(run, search_paths=[str(tmp_path)])
    assert "inner.gin:1: the run's configuration imports evil" in line
    assert not marker.exists()


@pytest.mark.parametrize("replaced", ["config.gin", "outer.gin"])
def test_a_file_that_is_replaced_after_the_check_has_no_effect(
    replaced: str, run: pathlib.Path, marker: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts that were checked are parsed: no file is read twice."""
    (run / "outer.gin").write_text("TRAIN_STEPS = 2\n")
    _add_statements(run, "", f'include "{run}/outer.gin"')

    def check_and_replace(statements: Statements, allowed: list[str], trained_with: str) -> None:
        check_untrusted(statements, allowed, trained_with)
        (run / replaced).write_text("import evil\n")

    monkeypatch.setattr(config_module, "check_untrusted", check_and_replace)
    _parse(run)
    assert (run / replaced).read_text() == "import evil\n"
    assert not marker.exists()


_STATEMENTS = "from mtfrun.configuration import statements\n"


@pytest.mark.parametrize(
    ("text", "selector", "module"),
    [
        (_STATEMENTS + "{} = @statements.os.system()", "statements.os.system", "os"),
        (
            "import mtfrun.configuration.statements\n"
            "{} = @mtfrun.configuration.statements.os.system()",
            None,
            "os",
        ),
        (_STATEMENTS + "{} = [{{@statements.os.system(): 1}}]", None, "os"),
        (_STATEMENTS + "{} = {{1: @statements.os.system(), 2: 2}}", None, "os"),
        (_STATEMENTS + "{} = @here/statements.os.system()", None, "os"),
        (_STATEMENTS + "statements.os.system.command = 'id'", None, "os"),
        (_STATEMENTS + "statements.os.system:\n  command = 'id'", None, "os"),
        ("from mtfrun.files import atomic\n{} = @atomic.secrets.token_hex()", None, "secrets"),
        # mtfrun's own functions write files and run commands.
        (
            "from mtfrun import files\n{} = @files.atomic_write()",
            "files.atomic_write",
            "mtfrun.files.atomic",
        ),
        (
            "from mtfrun import rundir\n{} = @rundir.RunDirectory()",
            None,
            "mtfrun.rundir.run_directory",
        ),
        ("from mtfrun.cli import main\n{} = @main.main()", "main.main", "mtfrun.cli.main"),
        ("{} = @experiment.Training.run()", None, "mtfrun.experiment.training"),
        ("{} = @experiment.Training.__subclasses__()", None, "builtins"),
        ("{} = @experiment.Training.run.__globals__.get()", None, "mtfrun.experiment.training"),
        ("from mtfrun.display import formats\n{} = @formats.re.compile()", None, "re"),
    ],
)
def test_objects_that_are_reached_through_allowed_modules_are_refused(
    text: str, selector: str | None, module: str, run: pathlib.Path
) -> None:
    _add_statements(run, "", text.format("experiment.Experiment.seed"))
    line = _refused(run)
    assert f"uses {selector or ''}" in line and f" of {module}: " in line
    assert f"--gin_allow_imports={module} " in line


def test_names_that_any_module_registered_are_refused(
    run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "inner.gin").write_text("Experiment.seed = @Adam()\n")
    _add_statements(run, "", f'include "{tmp_path}/inner.gin"')
    line = _refused(run)
    assert "inner.gin:1: a run's configuration begins with `from __gin__ import" in line


def test_a_module_that_is_allowed_allows_no_others(run: pathlib.Path, marker: pathlib.Path) -> None:
    config = (run / "config.gin").read_text()
    statements = "import my_models\nexperiment.Experiment.seed = @my_models.{}()"
    _add_statements(run, "", statements.format("system"))
    line = _refused(run, "my_models")
    assert "uses my_models.system of posix: " in line
    (run / "config.gin").write_text(config)
    _add_statements(run, "", statements.format("seed"))
    _parse(run, "my_models")
