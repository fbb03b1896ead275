"""Lines of the output of decode and score: JSON objects, or text."""

from __future__ import annotations

import json
import unicodedata

from mtfrun.configuration.one_line import escaped
from mtfrun.experiment import Record


def json_line(record: Record, step: int) -> str:
    """Returns a record, and the step of the checkpoint that it comes from, as one line of JSON."""
    fields = {**record.fields, "step": step}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n"


def as_text(text: str) -> str:
    r"""Returns a text for people, with a line end: other control characters are escaped.

    Examples:
      >>> as_text("two\nlines \x1b[31m")
      'two\nlines \\x1b[31m\n'
    """
    plain = "".join(c if _is_shown(c) else escaped(c) for c in text)
    return f"{plain}\n"


def _is_shown(character: str) -> bool:
    # Spaces that are not " ", and what joins letters, are no characters to print for Python.
    return (
        character.isprintable()
        or character in "\n\t\u200c\u200d"
        or unicodedata.category(character) == "Zs"
    )
