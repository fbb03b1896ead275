"""The commands that `bin/quickstart` prints can be pasted into a shell."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys

SCRIPT = pathlib.Path(__file__).parent.parent / "bin/quickstart"


def test_the_commands_of_the_quickstart_are_printed_with_their_quotes() -> None:
    (function,) = re.findall(
        r"^run\(\) \{.*?^\}$|^run\(\) \{.*\}$", SCRIPT.read_text(), re.M | re.S
    )
    command = ["printf", "%s|", "--prompt=def ", "it's", "$HOME", ""]
    process = subprocess.run(
        ["bash", "-c", f'{function}\nrun "$@"', "bash", *command],
        env={**os.environ, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout == "--prompt=def |it's|$HOME||"
    printed = process.stderr.strip().removeprefix("$ ")
    assert shlex.split(printed) == command
