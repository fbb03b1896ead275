"""The result of one run of a sweep: a small JSON file that can be committed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from mtfrun.errors import InputError
from mtfrun.errors.untrusted import LARGEST_TEXT, is_directory, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json
from mtfrun.extras.sweeps.resamples import Resamples, resample_decodes
from mtfrun.extras.sweeps.sweep import RESULTS, SEED, Sweep, SweepRun, check_fields
from mtfrun.files import atomic_write
from mtfrun.files.errors import reason, run_dir_errors
from mtfrun.rundir import RunCost, commands, run_versions
from mtfrun.rundir.run_record import numbers_as_json, numbers_from_json
from mtfrun.rundir.run_summary import RunSummary, metric_of, summary_of

NAME = "sweep.json"
"""The file in the directory of a sweep that records it."""

_LINES = ".jsonl"
_REMEDY = "remove it, and sweep again"
# Errors of reading damaged JSON.
_DAMAGE = (OSError, ValueError, TypeError, LookupError, AttributeError)

ResultState = Literal["finished", "stopped", "failed", "killed", "missing"]


@dataclasses.dataclass(frozen=True)
class RunName:
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
    # metrics of the last evaluation by name; NaN if not finite
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    # step and metric of every evaluation
    evaluations: Mapping[int, float] = dataclasses.field(default_factory=dict)
    configuration: str = ""  # the SHA-256 of the settings that determine the result
    # versions, processor and git commit, for a person to read
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    resamples: Resamples | None = None  # of the sweep's metric, if the run keeps all decodes

    def as_json(self) -> dict[str, Any]:
        numbers = {n: numbers_as_json(getattr(self, n)) for n in ("metrics", "evaluations")}
        fields = {**dataclasses.asdict(self), **numbers}
        return {name: x for name, x in fields.items() if name != "resamples" or x is not None}

    @classmethod
    def parse(cls, content: bytes, place: str) -> RunResult:
        with run_dir_errors(f"{place} is not the result of a run", _REMEDY, *_DAMAGE):
            fields = parse_json(content)
            for name in ("metrics", "evaluations"):
                fields[name] = numbers_from_json(fields[name])
            fields["evaluations"] = {int(step): x for step, x in fields["evaluations"].items()}
            resamples = fields.pop("resamples", None)
            if resamples is not None:
                check_fields(Resamples, resamples, place)
                resamples = Resamples(**resamples)
            check_fields(cls, fields, place)
            result = cls(**fields, resamples=resamples)
            if result.state not in get_args(ResultState) or not result.is_valid():
                raise InputError("its state or a cost is invalid")
            return result


class Results:
    """A sweep and the results of its runs.

    Args:
      place: a directory with a file for each, or a .jsonl file, whose first line is the sweep.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = pathlib.Path(place)
        self.name = self.place.resolve().name.removesuffix(_LINES)
        self._is_file = self.place.suffix == _LINES

    def sweep(self) -> Sweep | None:
        """Returns None without a record of the sweep."""
        path = self.place if self._is_file else self.place / NAME
        try:
            content = read_regular(path, LARGEST_TEXT, follows_links=False)
            return Sweep.parse(content.splitlines()[0] if self._is_file else content, str(path))
        except FileNotFoundError:
            return None
        except _DAMAGE as error:
            raise InputError(
                f"{path} is not a record of a sweep ({reason(error)}): name another --model_dir"
            ) from error

    def require_sweep(self) -> Sweep:
        sweep = self.sweep()
        if sweep is None:
            what = f"{self.place} has no {NAME}"
            raise InputError(f"{what}: name the directory of a sweep, or of its results")
        return sweep

    def read(self) -> dict[str, RunResult]:
        """Returns the results by the names of their runs."""
        if self._is_file:
            lines = _read(self.place).splitlines()[1:] if self.place.exists() else []
            contents = {f"{self.place}, line {i},": line for i, line in enumerate(lines, 2)}
        else:
            files = [file for file in sorted(self.place.glob("*.json")) if file.name != NAME]
            contents = {str(file): _read(file) for file in files}
        results = [RunResult.parse(content, place) for place, content in contents.items()]
        return {result.name: result for result in results}

    def write_sweep(self, sweep: Sweep) -> None:
        if self._is_file:
            self._write_lines(sweep, self.read())
        else:
            _write(self.place / NAME, [dataclasses.asdict(sweep)], indent=1)

    def write(self, result: RunResult) -> None:
        if self._is_file:
            self._write_lines(self.require_sweep(), {**self.read(), result.name: result})
        else:
            _write(self.place / f"{result.name}.json", [result.as_json()], indent=1)

    def _write_lines(self, sweep: Sweep, results: Mapping[str, RunResult]) -> None:
        lines = [result.as_json() for _, result in sorted(results.items())]
        _write(self.place, [dataclasses.asdict(sweep), *lines])


def _read(path: pathlib.Path) -> bytes:
    with run_dir_errors(f"{path} is not the result of a run", _REMEDY):
        return read_regular(path, LARGEST_TEXT, follows_links=False)


def _write(path: pathlib.Path, records: Sequence[object], indent: int | None = None) -> None:
    atomic_write(path, "".join(json.dumps(mask_json(x), indent=indent) + "\n" for x in records))


def results_of(directory: str | os.PathLike[str]) -> tuple[Sweep, list[RunResult]]:
    """Returns a sweep and the results of its runs, in its order; missing results too.

    `directory` is the sweep's, or the directory or the file of --results.
    """
    results = Results(directory)
    sweep = results.require_sweep()
    if is_directory(results.place / RESULTS):
        results = Results(results.place / RESULTS)
    missing = {run.name: missing_result(run) for run in (sweep.runs() if sweep.varies else [])}
    return sweep, list({**missing, **results.read()}.values())


def missing_result(run: SweepRun) -> RunResult:
    return RunResult(run.name, run.row, run.seed or 0, run.values, "missing", "not trained")


# Texts in errors of TensorFlow and of Python.
_OUT_OF_MEMORY = ("ResourceExhaustedError", "MemoryError", "Out of memory", "OOM when")
_COMMIT_CHARACTERS = 12
_GIT_SECS = 60
WITH_CHANGES = "with changes"


class Ending(NamedTuple):
    """How the process of a training has ended."""

    code: int  # its exit code, -number for a signal that has killed it
    error: str | None = None  # the last error that it has printed
    signal: int | None = None  # signal that the sweep has forwarded to it
    reason: str | None = None  # why the sweep has stopped it, such as "pruned at step 50"
    out_of_memory: bool = False  # whether the kernel has killed a process for memory meanwhile


PRUNED = "pruned"
"""The first word of the reason if a search has stopped a run."""


def budget_text(minutes: float) -> str:
    return f"stopped after {minutes:g} minutes, the budget of a run"


def result_of(
    sweep: Sweep, run: SweepRun, directory: pathlib.Path, configuration: str, ending: Ending | None
) -> RunResult:
    """`ending` is None if the run was not trained by the sweep."""
    summary = summary_of(directory, run.name)
    state, error = _state(sweep, summary, ending)
    evaluations = {e.step: e.metrics for e in summary.evaluations}
    metric = sweep.metric or metric_of(evaluations.values(), None)
    seed = sweep.bindings.get(SEED, "") if run.seed is None else str(run.seed)
    last = max(evaluations, default=0)
    resamples = None
    if state == "finished" and metric in evaluations.get(last, {}):
        value = evaluations[last][metric]
        resamples = resample_decodes(directory, last, metric, value, summary.config)
    return dataclasses.replace(
        missing_result(run),
        seed=int(seed) if seed.isdecimal() else 0,
        state=state,
        error=error,
        step=summary.step,
        metrics=evaluations.get(last, {}),
        evaluations={step: x[metric] for step, x in evaluations.items() if metric in x},
        **({} if summary.status is None else dataclasses.asdict(summary.status.cost)),
        configuration=configuration,
        environment=environment(),
        resamples=resamples,
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
            cause = ": the kernel has ended a process for lack of memory"
            text += cause if ending.out_of_memory else ", perhaps out of memory"
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
    commit = _commit_text()
    gpus = sorted(pathlib.Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpu = _fields(str(gpus[0])).get("Model") if gpus else None
    return {
        **run_versions(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "processor": _fields("/proc/cpuinfo").get("model name", "unknown"),
        **({"gpu": gpu} if gpu else {}),
        **({"git": commit} if commit else {}),
        "code": commands.hash_of_package()[:_COMMIT_CHARACTERS],
    }


def _commit_text() -> str | None:
    """Returns the package's commit, "0123456789ab", or "0123456789ab, with changes"."""
    commit = commands.package_commit()
    if commit is None:
        return None
    root = commands.PACKAGE.parent
    options = ["-c", f"safe.directory={root}", "-c", "core.fsmonitor=false"]
    command = ["git", *options, "status", "--porcelain", "--", "mtfrun", "gin"]
    # Nothing of the working directory or of the user's PATH is run.
    env = {"PATH": os.defpath}
    changed = f"perhaps {WITH_CHANGES}"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        process = subprocess.run(
            command, cwd=root, env=env, capture_output=True, timeout=_GIT_SECS, check=True
        )
        changed = WITH_CHANGES if process.stdout else ""
    return ", ".join(filter(None, (commit[:_COMMIT_CHARACTERS], changed)))


def _fields(path: str) -> dict[str, str]:
    """Returns the first value of each "name : value" in a file of the kernel."""
    try:
        lines = pathlib.Path(path).read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.partition(":") for line in reversed(lines)]
    return {name.strip(): value.strip() for name, _, value in pairs}
