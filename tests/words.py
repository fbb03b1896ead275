"""Counts of words in the prose of mtfrun (docstrings, comments, pages), which bin/structure prints.

The limits are twice the highest of the same counts of Sonnet, Haliax, Optax, big_vision, nanochat
and Levanter.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.reach import PATHS, ROOT, parse

# Patterns with the most that 10,000 words of prose may have.
LIMITS = {
    r"\b(?:that|those) of\b": 2.4,
    r"\bwhat (?:is|are|was|it|they)\b": 4.0,
    r"\bown\b": 8.0,
    r"\bothers\b": 28.0,
    r"\bvisits?\b": 0.0,
}
MOST_PARTICIPLES = 12

_PARTICIPLE = re.compile(
    r"(?:\w+ed|begun|built|chosen|drawn|found|given|held|hidden|kept|known|left|lost|made|meant|"
    r"seen|shown|spent|taken|written)$"
)
_VERBS = {"embed", "exceed", "feed", "need", "proceed", "seed", "shed", "speed", "succeed"}
# `named_variables` is a noun; `opened`, `drawn_before` and `_filled_with` say no verb and no noun.
_PREPOSITIONS = {
    "after",
    "along",
    "and",
    "as",
    "before",
    "between",
    "but",
    "by",
    "for",
    "from",
    "in",
    "of",
    "on",
    "to",
    "until",
    "where",
    "with",
}


# Behind code ruff puts two spaces before it; a tokenizer takes seconds for all files.
_COMMENT = re.compile(r"(?:^ *|  )# *(.*)$", re.M)


def pages() -> Iterator[str]:
    """Yields the Markdown pages, without their blocks of code."""
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]:
        text = path.read_text(encoding="utf-8")
        yield re.sub(r"```.*?```|^(?: {4}|\t).*$|`[^`\n]*`", " ", text, flags=re.S | re.M)


def comments_and_docstrings() -> Iterator[str]:
    """Yields the prose in the files of mtfrun."""
    for module, path in PATHS.items():
        if not module.startswith("mtfrun"):
            continue
        text = path.read_text(encoding="utf-8")
        yield from _COMMENT.findall(text)
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield ast.get_docstring(node) or ""


def counts() -> dict[str, float]:
    """Returns how often 10,000 words of prose have each pattern."""
    prose = "\n".join([*pages(), *comments_and_docstrings()])
    words = len(re.findall(r"[A-Za-z]+", prose))
    return {
        pattern: 10_000 * len(re.findall(pattern, prose, re.IGNORECASE)) / words
        for pattern in LIMITS
    }


def participles() -> list[str]:
    """Returns the functions that are named by a participle alone, such as `opened`."""
    names = []
    for module, path in PATHS.items():
        if not module.startswith("mtfrun"):
            continue
        for node in ast.walk(parse(path)):
            if not isinstance(node, ast.FunctionDef) or _is_property(node):
                continue
            first, *rest = node.name.strip("_").split("_")
            is_participle = _PARTICIPLE.match(first) and first not in _VERBS
            if is_participle and (not rest or rest[0] in _PREPOSITIONS):
                names.append(f"{module}.{node.name}")
    return names


def _is_property(function: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def violations() -> list[str]:
    """Returns a line for every count above its limit."""
    lines = [
        f"{count:.1f} of 10,000 words match {pattern}, at most {LIMITS[pattern]} may"
        for pattern, count in counts().items()
        if count > LIMITS[pattern]
    ]
    number = len(participles())
    if number > MOST_PARTICIPLES:
        lines.append(f"{number} functions are named by participles, at most {MOST_PARTICIPLES} may")
    return lines
