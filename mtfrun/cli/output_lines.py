"""Lines of the output of decode and score: JSON objects, or text."""

from __future__ import annotations

import json

from mtfrun.experiment import Record
from mtfrun.untrusted import visible


def json_line(record: Record, step: int) -> str:
    """Returns a record, and the step of the checkpoint that it comes from, as one line of JSON."""
    fields = {**record.fields, "step": step}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(text: str) -> str:
    r"""Returns a text with a line end, and control characters other than line ends escaped.

    Examples:
      >>> as_text("two\nlines \x1b[31m")
      'two\nlines \\u001b[31m\n'
    """
    return f"{visible(text)}\n"
