"""What `bin/quickstart` prints can be pasted into a shell, and read."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parent.parent / "bin/quickstart"


def _functions() -> str:
    """Returns the functions of the script, and the variables that they use."""
    functions = re.findall(r"^[a-z_]+\(\) \{\n.*?^\}$", SCRIPT.read_text(), re.M | re.S)
    assert len(functions) == 5
    environment = f"bin={shlex.quote(str(pathlib.Path(sys.executable).parent))}; bold= plain=\n"
    return environment + "\n".join(functions)


def _called(*words: str) -> subprocess.CompletedProcess[str]:
    """Returns what a call of one of the functions does."""
    return subprocess.run(
        ["bash", "-c", f'{_functions()}\n"$@"', "bash", *words],
        env={**os.environ, "COLUMNS": "60"},
        capture_output=True,
        text=True,
        check=True,
    )


def test_commands_are_printed_with_their_quotes_and_run() -> None:
    command = ["printf", "%s|", "--prompt=def ", "it's", "$HOME", ""]
    process = _called("run", *command)
    assert process.stdout == "--prompt=def |it's|$HOME||"
    assert shlex.split(process.stderr.strip().removeprefix("$ ")) == command


def test_answers_are_printed_as_text_of_a_few_lines(tmp_path: pathlib.Path) -> None:
    answers = [
        {"prompt": "def ", "output": "f(x):\n    return x\n"},
        {"prompt": "import ", "output": "a\n" * 20},
        {"prompt": "class ", "output": "word " * 100},
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    printed = _called("print_answers", str(file)).stdout
    assert printed.startswith("\n    def f(x):\n        return x\n\n    import a\n    a\n")
    assert printed.count("    ...\n") == 2
    assert all(len(line) <= 60 for line in printed.splitlines())


@pytest.mark.parametrize("words", [["--help"], ["-h"]])
def test_the_help_of_quickstart_installs_nothing(words: list[str]) -> None:
    process = subprocess.run([SCRIPT, *words], capture_output=True, text=True, check=True)
    assert process.stdout.startswith("usage: bin/quickstart [MODEL_DIR]\n")
    assert process.stderr == ""


@pytest.mark.parametrize(
    "words", [["--model_dir=x"], ["-x"], ["--"], ["a", "b"], [""], ["-h", "a"]]
)
def test_arguments_other_than_one_directory_are_refused(
    words: list[str], tmp_path: pathlib.Path
) -> None:
    process = subprocess.run([SCRIPT, *words], capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stdout) == (2, "")
    (line,) = process.stderr.splitlines()
    assert "not one name of a directory" in line and "--help explains" in line
    assert not list(tmp_path.iterdir())
