"""The command `sweep`, and the results that tables and reports read."""

from mtfrun.tools.sweep.result import RunResult as RunResult
from mtfrun.tools.sweep.result import SweepResults as SweepResults
from mtfrun.tools.sweep.result import results_of as results_of
from mtfrun.tools.sweep.result import summary_of_result as summary_of_result
from mtfrun.tools.sweep.sweep import Sweep as Sweep
from mtfrun.tools.sweep.sweep import SweepRow as SweepRow
