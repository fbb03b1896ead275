from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig

# The original's names of a model's variables by our path; building the model takes seconds.
VariableNames = Callable[[], Mapping[str, str]]


def translate(
    source: SourceConfig,
    target: str,
    patterns: Sequence[str],
    names: VariableNames,
    *,
    is_text: bool = False,
    complement: bool = False,
) -> list[str]:
    """Returns patterns of our paths for patterns of the original's names, or refuses `target`.

    Args:
      is_text: whether the original searches for plain texts.
      complement: whether to select all other variables.
    """
    if not all(isinstance(pattern, str) for pattern in patterns):
        source.refuse(target, "not a list of texts")
        return []
    try:
        expressions = [re.compile(re.escape(p) if is_text else p) for p in patterns]
    except re.error as error:
        source.refuse(target, f"not a regular expression: {error}")
        return []
    selected = {
        path: any(expression.search(name) for expression in expressions) != complement
        for path, name in (names().items() if patterns else ())
    }
    return list(dict.fromkeys(_pattern(path, selected) for path in selected if selected[path]))


def _pattern(path: str, selected: Mapping[str, bool]) -> str:
    """Returns a pattern of as many of the selected paths as possible, and of no other path."""
    any_block = re.sub(r"\b\d+\b", r"\\d+", path)
    layer = re.match(r".+?/blocks/[^/]+/\w+/", any_block)
    patterns = [f"^{any_block}$", f"^{path}$"]
    if layer:
        patterns.insert(0, f"^{layer[0]}")
    return next(p for p in patterns if all(selected[x] for x in selected if re.search(p, x)))
