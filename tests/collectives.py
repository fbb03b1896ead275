"""The collectives of programs, from a process that writes what DTensor compiled."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from mtfrun.extras.plan.dtensor_programs import dump_environment

ROOT = pathlib.Path(__file__).parents[1]


def collectives_of(worker: str, folder: pathlib.Path, names: Iterable[str]) -> Any:
    """Returns the JSON that a module of the tests prints, run as a program.

    Its arguments are the name of the folder, to which DTensor writes the programs that it compiles,
    and the names of the cases to run.
    """
    process = subprocess.run(
        [sys.executable, "-m", worker, str(folder), *names],
        env=os.environ | dump_environment(str(folder)),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)
