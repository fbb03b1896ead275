"""What docstrings say of classes, functions and their parameters."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

_SECTION = re.compile(r"^(Args|Attributes):\n((?:[ ]+.*\n|\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*(?:\n[ ]+.*)*)", re.MULTILINE)


def summary(target: Any) -> str:
    """Returns the first line of the docstring of a class or function, "" without one."""
    return (inspect.getdoc(target) or "").partition("\n")[0]


def parameter_docs(target: Any) -> dict[str, str]:
    """Returns what docstrings say of each parameter of a class or function, in one line.

    Those of base classes count where a class says nothing itself.
    """
    texts = [target.__doc__]
    if inspect.isclass(target):
        classes = [cls for cls in reversed(target.__mro__) if cls is not object]
        constructors = [vars(cls).get("__init__") for cls in classes]
        texts = [item.__doc__ for item in (*classes, *constructors) if item is not None]
    docs: dict[str, str] = {}
    for text in filter(None, texts):
        docs |= _entries(text)
    return docs


def first_sentence(text: str) -> str:
    """Returns a text up to its first full stop or semicolon.

    Examples:
      >>> first_sentence("Which are saved; None for all. By default all.")
      'Which are saved'
    """
    return re.split(r"[.;](?= |$)", text, maxsplit=1)[0]


def _entries(docstring: str) -> dict[str, str]:
    r"""Returns the entries of the sections Args and Attributes.

    Examples:
      >>> _entries("Does.\n\nArgs:\n  a, b: two\n    numbers.\n\nRaises:\n  ValueError: never.")
      {'a': 'two numbers.', 'b': 'two numbers.'}
    """
    entries = {}
    # Some classes say of their attributes that they are the arguments: these come last.
    for _, section in sorted(_SECTION.findall(inspect.cleandoc(docstring) + "\n"), reverse=True):
        for names, text in _ENTRY.findall(textwrap.dedent(section)):
            for name in names.split(", "):
                entries[name.lstrip("*")] = " ".join(text.split())
    return entries
