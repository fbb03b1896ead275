"""Several processes of one run: joining, agreeing and ending together.

It does not import TensorFlow. A process that has not called `join` is alone: all calls return at
once.
"""

from mtfrun.processes.connection import ProcessesError as ProcessesError
from mtfrun.processes.connection import Timeouts as Timeouts
from mtfrun.processes.group import TOKEN_VARIABLE as TOKEN_VARIABLE
from mtfrun.processes.membership import agree as agree
from mtfrun.processes.membership import by_first as by_first
from mtfrun.processes.membership import check_division as check_division
from mtfrun.processes.membership import check_same as check_same
from mtfrun.processes.membership import count as count
from mtfrun.processes.membership import end as end
from mtfrun.processes.membership import fail as fail
from mtfrun.processes.membership import gather as gather
from mtfrun.processes.membership import host as host
from mtfrun.processes.membership import index as index
from mtfrun.processes.membership import is_first as is_first
from mtfrun.processes.membership import join as join
from mtfrun.processes.membership import leave as leave
from mtfrun.processes.membership import note_saved as note_saved
from mtfrun.processes.membership import together as together
from mtfrun.processes.membership import waited_secs as waited_secs
