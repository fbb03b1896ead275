from __future__ import annotations

import os
import pathlib
import socket
from collections.abc import Mapping, MutableMapping

from mtfrun import processes

_VARIABLE = "CUDA_VISIBLE_DEVICES"
# With these variables SLURM has assigned separate GPUs to each task; all may have the number 0.
_OF_TASK = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK")
# The same in all containers of a machine, which have different host names.
_MACHINE = pathlib.Path("/proc/sys/kernel/random/boot_id")


def share_gpus(environment: MutableMapping[str, str] = os.environ, devices: str = "/dev") -> None:
    """Assigns this process its part of the GPUs. Collective, before TensorFlow is imported.

    Processes share GPUs on one machine with equal device files and CUDA_VISIBLE_DEVICES.
    """
    machine = _MACHINE.read_text() if _MACHINE.is_file() else socket.gethostname()
    visible = [machine, environment.get(_VARIABLE), _device_files(devices)]
    if any(name in environment for name in _OF_TASK):
        visible.append(str(processes.index()))
    sharing = [i for i, other in enumerate(processes.gather(visible, "GPUs")) if other == visible]
    part = gpus_of_process(sharing.index(processes.index()), len(sharing), environment, devices)
    environment.update(part)


def gpus_of_process(
    process: int, num_processes: int, environment: Mapping[str, str], devices: str = "/dev"
) -> dict[str, str]:
    """Returns the variable that selects the GPUs of a process; empty if there are too few.

    By default every process gets all GPUs, and the first takes their memory.

    >>> gpus_of_process(1, 2, {"CUDA_VISIBLE_DEVICES": "0,3,5,6"})
    {'CUDA_VISIBLE_DEVICES': '5,6'}
    """
    if _VARIABLE in environment:
        names = [name.strip() for name in environment[_VARIABLE].split(",") if name.strip()]
    else:
        # CUDA numbers the devices that it finds, however a container names their files.
        names = [str(number) for number in range(len(_device_files(devices)))]
    share = len(names) // num_processes
    if not share:
        return {}
    return {_VARIABLE: ",".join(names[process * share : (process + 1) * share])}


def _device_files(devices: str) -> list[str]:
    return sorted(file.name for file in pathlib.Path(devices).glob("nvidia[0-9]*"))
