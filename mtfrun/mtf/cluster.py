"""The connection of DTensor to the devices of the other processes of a run."""

from __future__ import annotations

import os
import socket

from tensorflow.experimental import dtensor

from mtfrun import processes
from mtfrun.errors import LayoutError
from mtfrun.mtf.accelerators import use_nccl

# What DTensor calls the processes of a run.
_JOB = "worker"


class _Cluster:
    """Whether this process is connected, and how."""

    devices: tuple[str, int] | None = None


def connect(kind: str, count: int, description: str) -> None:
    """Connects TensorFlow with the other processes, before it makes a tensor; once is enough.

    Each process chooses a port of its own and the processes tell each other. TensorFlow's servers
    accept any connection: the network must be trusted.

    Args:
      kind: of the devices, such as "GPU".
      count: of the devices of this process.
      description: of the mesh, the same in all processes.

    Raises:
      LayoutError: another process has another mesh, or TensorFlow has already started.
    """
    devices = (kind, count)
    for index, other in enumerate(processes.gather([*devices, description], "mesh")):
        if other != [*devices, description]:
            raise LayoutError(
                f"process {processes.index()} has the mesh {description} on {count} {kind} "
                f"device(s), process {index} has {other[2]} on {other[1]} {other[0]} device(s): "
                "start all with the same configuration on machines of one kind"
            )
    if _Cluster.devices == devices:
        return
    if _Cluster.devices is not None:
        raise LayoutError(
            f"this process has begun with {_Cluster.devices[1]} {_Cluster.devices[0]} device(s): "
            "all meshes of several processes need the same devices"
        )
    jobs = processes.gather(_free_address(), "jobs")
    os.environ["DTENSOR_JOB_NAME"] = _JOB
    os.environ["DTENSOR_CLIENT_ID"] = str(processes.index())
    os.environ["DTENSOR_NUM_CLIENTS"] = str(processes.count())
    os.environ["DTENSOR_JOBS"] = ",".join(jobs)
    if kind == "GPU":
        use_nccl()
    try:
        dtensor.initialize_accelerator_system(kind)
    except ValueError as error:  # TensorFlow has already started
        raise LayoutError(
            f"several processes cannot be connected ({error}): make the mesh before any tensor"
        ) from error
    _Cluster.devices = devices


def _free_address() -> str:
    """Returns "host:port" of a port of this machine that nothing uses."""
    host = processes.host()
    # Closed before TensorFlow takes it: the system gives such a port to another program only after
    # it has given all others.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
