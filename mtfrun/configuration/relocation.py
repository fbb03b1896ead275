"""Finds the paths in the configuration of a run directory and resolves them after a move."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mtfrun.configuration.run_files import Relocation, RunFiles
from mtfrun.configuration.statements import MACRO, Binding

# Names of parameters whose values are paths or patterns of paths.
_PATH = re.compile(r"(?:.*_)?(?:files?|dirs?|directory|folder|paths?|patterns?)")


def relocated(bindings: Sequence[Binding], runs: Mapping[str, Path]) -> dict[int, Relocation]:
    """Returns functions that resolve the paths in bindings if a run directory was moved.

    The path of a copied file becomes the path of the copy, paths inside the run directory follow
    it, and relative paths start at the directory where the configuration was written.

    Args:
      bindings: in the order in which they take effect.
      runs: from the path of a configuration, as in `Binding.place`, to the run directory.

    Returns:
      From the index of a binding to the function.
    """
    records = {place: (run, RunFiles.of(run)) for place, run in runs.items()}
    macros = _macros_of_paths(bindings)
    functions: dict[int, Relocation] = {}
    for number, binding in enumerate(bindings):
        run, files = records.get(binding.place.rpartition(":")[0], (None, None))
        if run is not None and files is not None and not binding.from_flag:
            is_path = _is_path(binding) or (binding.selector == MACRO and binding.scope in macros)
            functions[number] = Relocation(run, files, binding.name, is_path)
    return functions


def _is_path(binding: Binding) -> bool:
    if binding.selector == MACRO:
        return False
    # `WarmStart.names` may be a file, or the names themselves.
    is_file = binding.parameter == "names" and isinstance(binding.value, str)
    return is_file or _PATH.fullmatch(binding.parameter) is not None


def _macros_of_paths(bindings: Sequence[Binding]) -> set[str]:
    """Returns the names of the macros that path parameters refer to."""
    of_macros: dict[str, list[Binding]] = {}
    for binding in bindings:
        if binding.selector == MACRO:
            of_macros.setdefault(binding.scope, []).append(binding)
    macros: set[str] = set()
    queue = [binding for binding in bindings if _is_path(binding)]
    while queue:
        for reference in queue.pop().references():
            name = reference.scopes[-1] if reference.selector == MACRO else ""
            if name and name not in macros:
                macros.add(name)
                queue += of_macros.get(name, [])
    return macros
