"""Lines of the output of decode and score: JSON objects, or text."""

from __future__ import annotations

import json

from mtfrun.experiment import Record


def json_line(record: Record, step: int) -> str:
    """Returns a record, and the step of the checkpoint that it comes from, as one line of JSON."""
    fields = {**record.fields, "step": step}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n"


def text_line(text: str) -> str:
    """Returns a text as one line: backslashes and line ends are escaped as in a string of C."""
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return escaped + "\n"
