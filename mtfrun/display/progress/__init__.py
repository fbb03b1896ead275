"""Progress of a program: bars, elapsed times, lines, colours."""

from mtfrun.display.progress.bar import Work as Work
from mtfrun.display.progress.bar import present_work as present_work
from mtfrun.display.progress.lines import error as error
from mtfrun.display.progress.lines import log as log
from mtfrun.display.progress.lines import log_to as log_to
from mtfrun.display.progress.lines import note as note
from mtfrun.display.progress.lines import print_line as print_line
from mtfrun.display.progress.lines import warning as warning
from mtfrun.display.progress.lines import warnings_as_lines as warnings_as_lines
from mtfrun.display.progress.screen import Style as Style
from mtfrun.display.progress.screen import apply_style as apply_style
from mtfrun.display.progress.screen import fit_fields as fit_fields
from mtfrun.display.progress.screen import is_terminal as is_terminal
from mtfrun.display.progress.screen import label_lines as label_lines
from mtfrun.display.progress.waiting import waiting as waiting
