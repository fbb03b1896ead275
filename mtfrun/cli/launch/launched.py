"""What a process knows of the launcher that has started it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
from collections.abc import MutableMapping, Sequence

# An environment variable: JSON with the launcher's process id and its command line.
_VARIABLE = "MTFRUN_LAUNCHER"
# From linux/prctl.h: the signal that the kernel sends to this process when its parent ends.
_PR_SET_PDEATHSIG = 1


def environment_of_child(command: Sequence[str]) -> dict[str, str]:
    """Returns environment variables for a process that this one starts.

    Args:
      command: this process's command line.
    """
    return {_VARIABLE: json.dumps({"pid": os.getpid(), "command": list(command)})}


def end_with_launcher(environment: MutableMapping[str, str] = os.environ) -> list[str] | None:
    """Returns the command line of the launcher that has started this process; None without one.

    From then on this process gets SIGTERM when its launcher ends (on Linux), so that a training is
    saved and nothing remains after `kill -9` of the launcher. The variable is removed: programs
    that this process starts are not the launcher's.
    """
    text = environment.pop(_VARIABLE, None)
    if text is None:
        return None
    launcher = json.loads(text)
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != launcher["pid"]:  # it has ended before
            os.kill(os.getpid(), signal.SIGTERM)
    return [str(word) for word in launcher["command"]]
