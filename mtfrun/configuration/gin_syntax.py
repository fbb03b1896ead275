"""Corrections of values that are not spelt as in Python, which is gin's syntax."""

from __future__ import annotations

import ast
import re
import shlex

CONSTANTS = {
    **dict.fromkeys(("true", "yes", "on"), "True"),
    **dict.fromkeys(("false", "no", "off"), "False"),
    **dict.fromkeys(("null", "none", "nil"), "None"),
}
"""Python's names of other languages' constants."""

_CALL = re.compile(r"@?([A-Za-z_][\w./]*)\(\)")
_SAFE_IN_A_SHELL = re.compile(r"[\w@%.:,/+=-]+", re.ASCII)
_FLAG = re.compile(r"(--gin\.|--gin_param=|--gin_bindings=|)([^=]*?)( *= *)(.*)", re.DOTALL)


def gin_spelling(text: str) -> str | None:
    """Returns the gin value that a text seems to mean; None if that is unclear.

    >>> [gin_spelling(text) for text in ("true", "3", "test", "a,b", "[1,b]", "Adam()")]
    ['True', '3', "'test'", "['a', 'b']", "[1, 'b']", '@Adam()']
    >>> gin_spelling("data:2,model:2")
    "'data:2,model:2'"
    >>> gin_spelling("{'train': a.txt}")
    """
    text = text.strip()
    if text.lower() in CONSTANTS:
        return CONSTANTS[text.lower()]
    if text.startswith(("@", "%")):
        return text
    if (call := _CALL.fullmatch(text)) is not None:
        return f"@{call[1]}()"
    if is_literal(text) and "," not in text:
        return text
    if text[:1] + text[-1:] in ("[]", "()"):
        return _list_spelling(text[1:-1])
    if text[:1] + text[-1:] == "{}":
        return text if is_literal(text) else None
    if any(text.count(left) != text.count(right) for left, right in ("[]", "()", "{}")):
        return None
    # The axes of meshes and the rules of layouts are texts with commas.
    if "," in text and not re.search(r"[:;{}\[\]()]", text):
        return _list_spelling(text)
    return text if is_literal(text) else repr(text)


def _list_spelling(items: str) -> str | None:
    if re.search(r"[\[\](){}'\"]", items):
        return f"[{items}]" if is_literal(f"[{items}]") else None
    spelled = [gin_spelling(item) for item in items.split(",") if item.strip()]
    return None if None in spelled else f"[{', '.join(map(str, spelled))}]"


def better_flag(flag: str) -> str | None:
    r"""Returns a corrected flag that gin can read, or None if its meaning is unclear.

    >>> better_flag("--gin.USE_AVERAGES=true"), better_flag("--gin_param=Adam.beta1 = a,b")
    ('--gin.USE_AVERAGES=True', '--gin_param="Adam.beta1 = [\'a\', \'b\']"')
    """
    match = _FLAG.fullmatch(flag)
    if match is None or not match[2] or match[2].startswith("--"):
        return None
    prefix, name, equals, text = match.groups()
    value = gin_spelling(text)
    if value is None or value == text.strip():
        return None
    if prefix in ("--gin.", ""):
        return f"{prefix}{name}={_in_shell(value)}"
    return prefix + _in_shell(f"{name}{equals}{value}")


def _in_shell(text: str) -> str:
    if _SAFE_IN_A_SHELL.fullmatch(text):
        return text
    return shlex.quote(text) if re.search(r'["$`\\!]', text) else f'"{text}"'


def is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return True
