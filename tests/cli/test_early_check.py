"""The check of a configuration without TensorFlow accepts valid ones and imports no user modules.

`test_mistakes.py` tests the configurations that it refuses, and how fast.
"""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from mtfrun.configuration import config
from mtfrun.configuration.files import shipped_gin_files
from mtfrun.experiment.runs.settings import ROOTS
from tests.cli.command import ROOT, environment

# Prints the message about every command line on standard input.
PROGRAM = """
import json, sys
from mtfrun.cli.early_check import EarlyCheck
from mtfrun.cli.parser import parse_flags
for line in sys.stdin:
    print(json.dumps(str(EarlyCheck(parse_flags(json.loads(line))).error())))
assert "tensorflow" not in sys.modules and "numpy" not in sys.modules
"""


def _messages(commands: list[list[str]], directory: pathlib.Path) -> list[str]:
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input="".join(json.dumps(command) + "\n" for command in commands),
        cwd=directory,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == ""
    return [json.loads(line) for line in process.stdout.splitlines()]


RUNS = [name for name in shipped_gin_files() if name.startswith("runs/")]
# A language model, pairs of texts, a mixture of experts, images.


@pytest.mark.slow
def test_the_check_accepts_every_run_of_the_package(tmp_path: pathlib.Path) -> None:
    commands = [
        ["train", f"--gin_file={name}", "--gin.SEED=1", "--model_dir=/tmp/none"] for name in RUNS
    ]
    assert _messages(commands, tmp_path) == ["None"] * len(RUNS)


def test_the_check_imports_no_user_module_but_checks_macros(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine.py").write_text("open('imported', 'w')\n")
    (tmp_path / "mine.gin").write_text("import mine\ninclude 'runs/quickstart.gin'\n")
    train = ["train", "--gin_file=mine.gin", "--model_dir=/tmp/none"]
    messages = _messages([train, [*train, "--gin.SED=1"]], tmp_path)
    assert messages[0] == "None" and "did you mean 'SEED'" in messages[1]
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("name", ["evaluation.exact_match", "exact_match"])
def test_a_flag_may_name_a_public_function_that_no_file_imports(name: str) -> None:
    binding = f"Task.metrics = [@{name}]"
    config.parse(["runs/number_words.gin"], [("--gin_param", binding)], roots=ROOTS)
    assert "from mtfrun import evaluation" in config.config_text()
    assert "metrics = [@evaluation.exact_match]" in config.config_text()
