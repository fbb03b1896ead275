"""A training with faults, and the comparison with one without."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile

from mtfrun.display.streams import print_lines
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors import ExitCode, InputError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.checkpoints.partial_files import list_names
from mtfrun.rundir.ledger import newest_recorded_step
from mtfrun.tools.chaos.disturbance import HEADINGS, Chaos
from mtfrun.tools.chaos.jumping_clock import clock_of
from mtfrun.tools.chaos.plan import Plan
from mtfrun.tools.chaos.verdict import judge
from mtfrun.tools.launch.children import Output
from mtfrun.tools.launch.launcher import Launch, Launcher

_BESIDE = ".undisturbed"


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trains without faults, unless `against` names a run that is finished, and then with them."""

    launch: Launch
    plan: Plan
    against: str | None = None

    def __post_init__(self) -> None:
        self.plan.check(self.launch.num_processes)

    def run(self, output: Output) -> int:
        """Returns the exit code: a failed training's, 0 for equal runs, or 5."""
        run = _path(self.launch.program.model_dir or "")
        undisturbed = _path(self.against or f"{run}{_BESIDE}")
        _require_new(run, "name another --model_dir")
        if self.against is None:
            _require_new(undisturbed, f"remove it, or give --against={undisturbed}")
            output.note(f"first without faults, in {undisturbed}")
            code = Launcher(_in_directory(self.launch, undisturbed), output).run()
            if code:
                return code
        last = newest_recorded_step(undisturbed)
        if not last:
            raise InputError(f"{undisturbed} has no ledger: train it first")
        with tempfile.TemporaryDirectory() as folder:
            launch, clock = self.launch, pathlib.Path(folder, "clock")
            if any(fault.needs_clock for fault in self.plan.faults):
                launch = _with_flags(launch, f"--clock_file={clock}")
            number = launch.num_processes
            clocks = [clock_of(clock, process) for process in range(number)]
            chaos = Chaos(self.plan.events(last, number), run, clocks)
            output.note(f"with {len(chaos.happenings)} fault(s), in {run}")
            code = Launcher(launch, output, chaos).run()
        rows = [happening.row() for happening in chaos.happenings]
        print_lines(*table_lines(HEADINGS, rows, terminal_columns()))
        if code:
            print_lines(f"{run} has not ended: exit code {code}")
            return code
        return self._report(chaos, run, undisturbed, last)

    def _report(self, chaos: Chaos, run: pathlib.Path, undisturbed: pathlib.Path, last: int) -> int:
        lines = judge(self.launch.program.python, run, undisturbed)
        if lines:
            print_lines(f"{run} differs from {undisturbed}:", *(f"  {line}" for line in lines))
        else:
            print_lines(
                f"identical to {undisturbed}: {last:,} steps, all curves and variables, to the bit"
            )
        missed = sum(happening.seen_step is None for happening in chaos.happenings)
        if missed:
            print_lines(f"{missed} of {len(chaos.happenings)} fault(s) did not happen")
        return ExitCode.NOT_EQUAL if lines or missed else 0


def _path(model_dir: str) -> pathlib.Path:
    return pathlib.Path(RunDirectory(model_dir).path)


def _require_new(directory: pathlib.Path, remedy: str) -> None:
    if list_names(directory):
        raise InputError(f"{directory} is not empty, and whole runs are compared: {remedy}")


def _in_directory(launch: Launch, directory: pathlib.Path) -> Launch:
    # Of two flags the last one counts.
    launch = _with_flags(launch, f"--model_dir={directory}")
    program = dataclasses.replace(launch.program, model_dir=str(directory))
    return dataclasses.replace(launch, program=program)


def _with_flags(launch: Launch, *flags: str) -> Launch:
    program = dataclasses.replace(launch.program, command=[*launch.program.command, *flags])
    return dataclasses.replace(launch, program=program)
