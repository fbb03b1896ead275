"""What a person sees while a program works: bars, elapsed times, lines, colours."""

from mtfrun.progress.lines import error, log, logged_to, note, print_line, warning
from mtfrun.progress.screen import Style, is_terminal, labelled, laid_out, styled
from mtfrun.progress.waiting import waiting
from mtfrun.progress.work import Work, present_work

__all__ = [
    "Style",
    "Work",
    "error",
    "is_terminal",
    "labelled",
    "laid_out",
    "log",
    "logged_to",
    "note",
    "present_work",
    "print_line",
    "styled",
    "waiting",
    "warning",
]
