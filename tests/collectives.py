"""Reading what devices send each other, in a process that is told to write its programs."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from mtfrun.cli.program_dump import dump_environment

ROOT = pathlib.Path(__file__).parents[1]


def collectives_of(worker: str, folder: pathlib.Path) -> Any:
    """Returns the JSON that a module of the tests prints, run by itself with the name of a folder.

    DTensor writes its programs to the folder, if told before it starts.
    """
    process = subprocess.run(
        [sys.executable, "-m", worker, str(folder)],
        env=os.environ | dump_environment(str(folder)),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)
