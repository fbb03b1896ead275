"""Child processes import nothing from the working directory, which may be anybody's."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = """
import os, subprocess
from mtfrun.processes.child_process import python_command
from mtfrun.extras.sweeps.forked_child import call_forked
call_forked([], print)
subprocess.run([*python_command(), "-m", "mtfrun", "--version"], check=True)
assert "PYTHONSAFEPATH" not in os.environ
"""


def test_modules_of_the_working_directory_are_not_imported(tmp_path: pathlib.Path) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    for name in ("multiprocessing", "mtfrun", "json"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    subprocess.run([sys.executable, program], cwd=folder, env=environment, check=True)
    assert not (tmp_path / "mark").exists()
