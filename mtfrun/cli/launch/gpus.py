"""The GPUs of each of several processes on one machine."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def gpus_of_process(
    process: int, num_processes: int, environment: Mapping[str, str], devices: str = "/dev"
) -> dict[str, str]:
    """Returns the variable that gives a process its own GPUs; nothing where there are too few.

    CUDA gives every process all GPUs otherwise, and the first process takes their memory.

    Args:
      process: its number.
      num_processes: how many share the machine's GPUs, in equal parts.
      environment: CUDA_VISIBLE_DEVICES there names the GPUs to share; all without it.
      devices: the folder of device files.

    Examples:
      >>> gpus_of_process(1, 2, {"CUDA_VISIBLE_DEVICES": "0,3,5,6"})
      {'CUDA_VISIBLE_DEVICES': '5,6'}
    """
    if _VARIABLE in environment:
        names = [name.strip() for name in environment[_VARIABLE].split(",") if name.strip()]
    else:
        files = pathlib.Path(devices).glob("nvidia[0-9]*")
        names = sorted((file.name.removeprefix("nvidia") for file in files), key=int)
    share = len(names) // num_processes
    if not share:
        return {}
    return {_VARIABLE: ",".join(names[process * share : (process + 1) * share])}
