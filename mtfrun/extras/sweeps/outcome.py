"""How a run of a sweep has ended, from its directory and its process."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import platform
import signal
from collections.abc import Mapping
from typing import NamedTuple

from mtfrun.extras.sweeps.result import ResultState, RunResult
from mtfrun.extras.sweeps.sweep import SEED, Sweep, SweepRun
from mtfrun.rundir import run_versions
from mtfrun.rundir.code import hash_of_package, package_commit
from mtfrun.rundir.run_summary import RunSummary, metric_of, summary_of

# In TensorFlow's errors, and in Python's.
_OUT_OF_MEMORY = ("ResourceExhaustedError", "MemoryError", "Out of memory", "OOM when")
_COMMIT_CHARACTERS = 12


class Ending(NamedTuple):
    """How the process of a training has ended."""

    code: int  # its exit code, -number for a signal that has killed it
    error: str | None = None  # the last one that it has printed
    signal: int | None = None  # signal that the sweep has forwarded to it
    reason: str | None = None  # why the sweep has stopped it, such as "pruned at step 50"
    out_of_memory: bool = False  # whether the kernel has killed a process for its memory meanwhile


def budget_text(minutes: float) -> str:
    return f"stopped after {minutes:g} minutes, the budget of a run"


def result_of(
    sweep: Sweep, run: SweepRun, directory: pathlib.Path, configuration: str, ending: Ending | None
) -> RunResult:
    """`ending` is None if another process than the sweep's has trained the run."""
    summary = summary_of(directory, run.name)
    state, error = _state(sweep, summary, ending)
    metrics = [e.metrics for e in summary.evaluations]
    metric = sweep.metric or metric_of(metrics, None)
    seed = sweep.bindings.get(SEED, "") if run.seed is None else str(run.seed)
    return RunResult(
        run.name,
        run.row,
        int(seed) if seed.isdecimal() else 0,
        run.values,
        state,
        error,
        step=summary.step,
        metrics=metrics[-1] if metrics else {},
        evaluations={e.step: e.metrics[metric] for e in summary.evaluations if metric in e.metrics},
        **({} if summary.status is None else dataclasses.asdict(summary.status.cost)),
        configuration=configuration,
        environment=environment(),
    )


def _state(sweep: Sweep, summary: RunSummary, ending: Ending | None) -> tuple[ResultState, str]:
    code = 0 if ending is None else ending.code
    if code == 0 and summary.state == "finished":
        return "finished", ""
    if code == 0 and summary.state == "stopped" and sweep.max_minutes is not None:
        return "stopped", budget_text(sweep.max_minutes)
    if ending is None:
        return "failed", summary.error
    if ending.signal is not None and code in (128 + ending.signal, -ending.signal):
        saved = f", saved at step {summary.step}" if summary.state == "stopped" else ""
        return "stopped", ending.reason or f"stopped by a signal{saved}"
    if code < 0:
        text = f"killed by signal {-code}"
        if code == -signal.SIGKILL:
            known = ": the kernel has ended a process for lack of memory"
            text += known if ending.out_of_memory else ", perhaps out of memory"
        return "killed", text
    printed = ending.error or summary.error or f"ended with exit code {code}"
    is_shortage = any(text in printed for text in _OUT_OF_MEMORY)
    return "failed", f"out of memory: {printed}" if is_shortage else printed


def count_memory_kills() -> int:
    """Returns how many processes the kernel has killed for memory: here, or on the machine."""
    counts = {}
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            words = pathlib.Path(path).read_text().split()
        except OSError:
            continue
        counts[path] = dict(zip(words[::2], words[1::2], strict=False)).get("oom_kill", "0")
    return sum(map(int, counts.values()))


@functools.cache
def environment() -> Mapping[str, str]:
    """Returns versions, processor, commit and code; no name of a person or a machine."""
    commit = package_commit()
    gpus = sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpu = _fields(str(gpus[0])).get("Model") if gpus else None
    return {
        **run_versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _fields("/proc/cpuinfo").get("model name", "unknown"),
        **({"gpu": gpu} if gpu else {}),
        **({"git": commit[:_COMMIT_CHARACTERS]} if commit else {}),
        "code": hash_of_package()[:_COMMIT_CHARACTERS],
    }


def _fields(path: str) -> dict[str, str]:
    """Returns the first value of each "name : value" of a file of the kernel."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in reversed(lines)]
    return {name.strip(): value.strip() for name, _, value in pairs}
