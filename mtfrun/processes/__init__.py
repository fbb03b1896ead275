"""Several processes of one run: who takes part, what all agree on, and what ends all of them.

Without TensorFlow. A process that has not called `join` is the only one, and all calls return at
once.
"""

from mtfrun.processes.errors import ProcessesError
from mtfrun.processes.hub import TOKEN_VARIABLE
from mtfrun.processes.membership import (
    agree,
    barrier,
    by_first,
    count,
    end,
    fail,
    gather,
    host,
    index,
    is_first,
    join,
    leave,
    note_saved,
    together,
    waited_secs,
)
from mtfrun.processes.monitor import LOST
from mtfrun.processes.sameness import check_same
from mtfrun.processes.timeouts import Timeouts

__all__ = [
    "LOST",
    "TOKEN_VARIABLE",
    "ProcessesError",
    "Timeouts",
    "agree",
    "barrier",
    "by_first",
    "check_same",
    "count",
    "end",
    "fail",
    "gather",
    "host",
    "index",
    "is_first",
    "join",
    "leave",
    "note_saved",
    "together",
    "waited_secs",
]
