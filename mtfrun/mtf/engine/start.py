"""The start of DTensor: the accelerators of this process, and the other processes of a run."""

from __future__ import annotations

import os
import socket

from tensorflow.experimental import dtensor

from mtfrun import processes
from mtfrun.errors import LayoutError

# DTensor's collectives between GPUs use NVIDIA's library if this is "1", else the host's memory.
NCCL = "DTENSOR_GPU_USE_NCCL_COMMUNICATION"
# What DTensor calls the processes of a run.
_JOB = "worker"


class _Started:
    accelerators: str | None = None
    devices: tuple[str, int] | None = None


def start_accelerators(kind: str, description: str) -> None:
    """Starts DTensor for the GPUs or TPUs of this process, before any tensor; else a LayoutError.

    It makes a logical CPU for each, which saves and restores the accelerator's variables.
    """
    if _Started.accelerators == kind:
        return
    _use_nccl(kind)
    try:
        dtensor.initialize_accelerator_system(kind)
    except (ValueError, RuntimeError) as error:
        raise LayoutError(
            f"mesh {description} cannot use {kind}s ({error}): make the mesh before any tensor"
        ) from error
    _Started.accelerators = kind


def connect_processes(kind: str, count: int, description: str) -> None:
    """Connects TensorFlow with the other processes, if any, before it makes a tensor.

    Each has `count` devices of a kind such as "GPU", and the same mesh: otherwise, or after a
    tensor, a LayoutError. Each chooses a port and the processes tell each other. TensorFlow's
    servers accept any connection: the network must be trusted.
    """
    if processes.count() == 1:
        return
    devices = (kind, count)
    for index, other in enumerate(processes.gather([*devices, description], "mesh")):
        if other != [*devices, description]:
            raise LayoutError(
                f"process {processes.index()} has the mesh {description} on {count} {kind} "
                f"device(s), process {index} has {other[2]} on {other[1]} {other[0]} device(s): "
                "start all with the same configuration on machines of one kind"
            )
    if _Started.devices == devices:
        return
    if _Started.devices is not None:
        raise LayoutError(
            f"this process has started with {_Started.devices[1]} {_Started.devices[0]} device(s): "
            "all meshes of several processes need the same devices"
        )
    jobs = processes.gather(_free_address(), "jobs")
    os.environ["DTENSOR_JOB_NAME"] = _JOB
    os.environ["DTENSOR_CLIENT_ID"] = str(processes.index())
    os.environ["DTENSOR_NUM_CLIENTS"] = str(processes.count())
    os.environ["DTENSOR_JOBS"] = ",".join(jobs)
    _use_nccl(kind)
    try:
        dtensor.initialize_accelerator_system(kind)
    except ValueError as error:  # TensorFlow has already started
        raise LayoutError(
            f"several processes cannot be connected ({error}): make the mesh before any tensor"
        ) from error
    _Started.devices = devices


def _use_nccl(kind: str) -> None:
    """Lets collectives between GPUs use NCCL, unless the user's environment decides."""
    if kind == "GPU":
        os.environ.setdefault(NCCL, "1")


def _free_address() -> str:
    host = processes.host()
    # Closed before TensorFlow takes it: the system gives such a port to another program only after
    # all free ones were used.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
