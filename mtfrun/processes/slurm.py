"""What SLURM says about the processes of a step."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mtfrun.errors import InputError

# The ports at which a step listens, below those that systems give to other connections.
_FIRST_PORT, _NUM_PORTS = 20000, 10000


def slurm_processes(environment: Mapping[str, str]) -> list[object] | None:
    """Returns the number of processes, this process's number, and the coordinator of a SLURM step.

    None without a step of several tasks: `srun` makes steps, a batch script alone does not. The
    coordinator is the step's first node; its port follows from the job and the step. Source:
    https://slurm.schedmd.com/srun.html, "output environment variables".
    """

    def number(name: str, default: str = "") -> int:
        text = environment.get(name, default)
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise unusable(name)
        return int(text)

    def unusable(name: str) -> InputError:
        value = f"is {environment[name]!r}" if name in environment else "is missing"
        return InputError(
            f"SLURM's variable {name} {value}: start the tasks with srun, or give --num_processes "
            "(1 for a process alone), --process_id and --coordinator"
        )

    tasks = number("SLURM_STEP_NUM_TASKS", "1")
    if tasks == 1:
        return None
    job, step = number("SLURM_JOB_ID"), number("SLURM_STEP_ID", "0")
    host = first_host(environment.get("SLURM_STEP_NODELIST", ""))
    if not host:
        raise unusable("SLURM_STEP_NODELIST")
    port = _FIRST_PORT + (job + 31 * step) % _NUM_PORTS
    return [tasks, number("SLURM_PROCID"), f"{host}:{port}"]


def first_host(nodes: str) -> str:
    """Returns the first host of a list as SLURM abbreviates it.

    >>> first_host("node[003-005,17],login1"), first_host("a1,b2"), first_host("r[1-2]n[4,6]-ib")
    ('node003', 'a1', 'r1n4-ib')
    """
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    name = match[0] if match else nodes
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", name)
