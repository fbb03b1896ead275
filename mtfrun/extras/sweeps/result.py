"""The result of one run of a sweep: a small JSON file that can be committed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import platform
import signal
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, is_directory, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.extras.sweeps.sweep import (
    LINES,
    NAME,
    RESULTS,
    SEED,
    Sweep,
    SweepRun,
    read_lines,
    write_lines,
)
from mtfrun.files import atomic_write
from mtfrun.files.errors import run_dir_errors
from mtfrun.rundir import RunCost, run_versions
from mtfrun.rundir.code import hash_of_package, package_commit
from mtfrun.rundir.run_record import numbers_as_json, numbers_from_json
from mtfrun.rundir.run_summary import RunSummary, metric_of, summary_of

_DAMAGE = (ValueError, TypeError, KeyError, AttributeError)
_REMEDY = "remove it, and sweep again"

ResultState = Literal["finished", "stopped", "failed", "killed", "missing"]


@dataclasses.dataclass(frozen=True)
class RunName:
    """Which run of a sweep it is."""

    name: str  # name of the run and its directory, such as "SwiGLU,SEED=1"
    row: str  # name that the runs of all seeds share, such as "SwiGLU" or "LEARNING_RATE=0.03"
    seed: int
    # the bindings of the row and the grid by name, as gin writes them, without the seed
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class RunResult(RunName, RunCost):
    """How a run of a sweep ended, its metrics and its cost."""

    state: ResultState  # "finished"; else `error` says why in one line
    error: str = ""
    step: int = 0
    # the last evaluation's, by name; NaN where not finite
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # step and metric of every evaluation
    evaluations: Mapping[int, float] = dataclasses.field(default_factory=dict)
    configuration: str = ""  # the SHA-256 of the settings that determine the result
    # versions, processor and git commit, for a person to read
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        for name in ("metrics", "evaluations"):
            fields[name] = numbers_as_json(fields[name])
        return dict(mask_json(fields))

    def write(self, path: pathlib.Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(self.as_json(), indent=1) + "\n")

    @classmethod
    def read(cls, path: pathlib.Path) -> RunResult:
        with run_dir_errors(f"{path} is not the result of a run", _REMEDY):
            content = read_regular(path, LARGEST_TEXT, follows_links=False)
        return cls.parse(content, str(path))

    @classmethod
    def parse(cls, content: bytes, place: str) -> RunResult:
        with run_dir_errors(f"{place} is not the result of a run", _REMEDY, *_DAMAGE):
            fields = parse_json(content)
            numbers = {name: numbers_from_json(fields[name]) for name in ("metrics", "evaluations")}
            steps = {int(step): value for step, value in numbers["evaluations"].items()}
            result = cls(**{**fields, **numbers, "evaluations": steps})
            if result.state not in get_args(ResultState) or type(result.seed) is not int:
                raise InputError("its state or seed is invalid")
            texts = [result.name, result.row, result.error, *result.environment.values()]
            if not all(type(text) is str for text in texts) or not result.is_valid():
                raise InputError("a text or a cost is invalid")
            return result


class Results:
    """The results of a sweep.

    Args:
      place: a directory with a file for each run, or a file of lines.
    """

    def __init__(self, place: pathlib.Path) -> None:
        self._place = place
        self._is_file = place.suffix == LINES

    def read(self) -> dict[str, RunResult]:
        """Returns the results by the names of their runs."""
        if self._is_file:
            lines = read_lines(self._place)[1:] if self._place.exists() else []
            results = [
                RunResult.parse(line, f"{self._place}, line {number},")
                for number, line in enumerate(lines, 2)
            ]
            return {result.name: result for result in results}
        files = {file.stem: file for file in sorted(self._place.glob("*.json"))}
        return {name: RunResult.read(file) for name, file in files.items() if file.name != NAME}

    def get(self, name: str) -> RunResult | None:
        if self._is_file:
            return self.read().get(name)
        path = self._place / f"{name}.json"
        return RunResult.read(path) if path.exists() else None

    def write(self, result: RunResult) -> None:
        if not self._is_file:
            result.write(self._place / f"{result.name}.json")
            return
        results = {**self.read(), result.name: result}
        (sweep,) = read_lines(self._place)[:1]
        lines = [json.dumps(x.as_json()).encode() for _, x in sorted(results.items())]
        write_lines(self._place, [sweep, *lines])


def results_of(directory: str | os.PathLike[str]) -> tuple[Sweep, list[RunResult]]:
    """Reads the directory of a sweep, or what --results names: a directory, or a file of lines.

    Returns the sweep and the results of its runs in the sweep's order; "missing" ones too.
    """
    path = pathlib.Path(directory)
    sweep = Sweep.read(path)
    if sweep is None:
        raise InputError(f"{path} has no {NAME}: name the directory of a sweep, or of its results")
    by_name = Results(path / RESULTS if is_directory(path / RESULTS) else path).read()
    results = []
    for run in sweep.runs() if sweep.varies else []:
        missing = RunResult(run.name, run.row, run.seed or 0, run.values, "missing", "not trained")
        results.append(by_name.pop(run.name, missing))
    return sweep, [*results, *by_name.values()]


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
