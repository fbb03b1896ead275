"""What a person sees while a program works: bars, elapsed times, lines, colours."""

from mtfrun.display.progress.lines import error as error
from mtfrun.display.progress.lines import log as log
from mtfrun.display.progress.lines import logged_to as logged_to
from mtfrun.display.progress.lines import note as note
from mtfrun.display.progress.lines import print_line as print_line
from mtfrun.display.progress.lines import warning as warning
from mtfrun.display.progress.lines import warnings_as_lines as warnings_as_lines
from mtfrun.display.progress.screen import Style as Style
from mtfrun.display.progress.screen import is_terminal as is_terminal
from mtfrun.display.progress.screen import labelled as labelled
from mtfrun.display.progress.screen import laid_out as laid_out
from mtfrun.display.progress.screen import styled as styled
from mtfrun.display.progress.waiting import waiting as waiting
from mtfrun.display.progress.work import Work as Work
from mtfrun.display.progress.work import present_work as present_work
