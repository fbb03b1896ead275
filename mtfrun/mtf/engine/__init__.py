"""All uses of DTensor, and workarounds for its defects, with the tests that show them.

A layout has a mesh axis, or None, for each dimension. docs/dtensor.md lists the limitations.
"""

from mtfrun.mtf.engine.start import connect_processes as connect_processes
from mtfrun.mtf.engine.start import start_accelerators as start_accelerators
from mtfrun.mtf.engine.values import DeviceLayout as DeviceLayout
from mtfrun.mtf.engine.values import DeviceMesh as DeviceMesh
from mtfrun.mtf.engine.values import distinct_parts as distinct_parts
from mtfrun.mtf.engine.values import make_layout as make_layout
from mtfrun.mtf.engine.values import make_mesh as make_mesh
from mtfrun.mtf.engine.values import make_planned_mesh as make_planned_mesh
from mtfrun.mtf.engine.values import make_variable as make_variable
from mtfrun.mtf.engine.values import pack as pack
from mtfrun.mtf.engine.values import places as places
from mtfrun.mtf.engine.values import relayout as relayout
from mtfrun.mtf.engine.values import run_on as run_on
from mtfrun.mtf.engine.values import to_numpy as to_numpy
from mtfrun.mtf.engine.workarounds import choose as choose
from mtfrun.mtf.engine.workarounds import copy_loop_variable as copy_loop_variable
from mtfrun.mtf.engine.workarounds import is_folded as is_folded
from mtfrun.mtf.engine.workarounds import reverse as reverse
from mtfrun.mtf.engine.workarounds import run_again_if_names_clash as run_again_if_names_clash
from mtfrun.mtf.engine.workarounds import spare_counters as spare_counters
from mtfrun.mtf.engine.workarounds import stack as stack
from mtfrun.mtf.engine.workarounds import take_small_inputs as take_small_inputs
from mtfrun.mtf.engine.workarounds import widen_small_inputs as widen_small_inputs
