"""The settings that explain why a model has other variables. Nothing that they name is imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mtfrun.configuration.gin_values import MACRO, value_text
from mtfrun.configuration.statements import Binding, bindings_in, last_part
from mtfrun.differences import Change, changes, list_changes

# The parameters of classes that the program calls, whose values make the variables of a part of a
# checkpoint. A part is explained by the first entry that has changed.
_SOURCES = {
    "model": (("Experiment.model",), ("Experiment.data",)),
    "optimizer": (("Training.optimizer", "Training.frozen"),),
    "averages": (("Training.average_decay",),),
}
# Parameters on which no variable depends, and so nothing below them.
_WITHOUT_VARIABLES = ("learning_rate",)
# How many changes a line names.
_MOST_CHANGES = 4


def values_of(text: str) -> dict[str, str]:
    """Returns the values in a recorded configuration by the names of its bindings.

    >>> values_of("optim.Adam.learning_rate = %LEARNING_RATE")
    {'optim.Adam.learning_rate': '%LEARNING_RATE'}
    """
    return {binding.name: value_text(binding.value) for binding in bindings_in(text)}


def changes_of_variables(old_text: str, new_text: str, parts: Iterable[str]) -> list[Change]:
    """`parts` of the checkpoint have other variables: "model", "optimizer", "averages"."""
    old, new = bindings_in(old_text), bindings_in(new_text)
    changed = [
        change
        for change in changes(values_of(old_text), values_of(new_text))
        # Rates do not change variables, whatever else they do.
        if not (_is_fraction(change.old) and _is_fraction(change.new))
    ]
    explaining: dict[str, Change] = {}
    for part in parts:
        for sources in _SOURCES.get(part, ()):
            names = _names_below(old, sources) | _names_below(new, sources)
            found = {change.name: change for change in changed if change.name in names}
            explaining |= found
            if found:
                break
    return list(explaining.values())


def describe_changes(found: Sequence[Change], present: Sequence[Binding]) -> str:
    """Returns "D_MODEL 64 -> 128 (models/lm_tiny.gin:14, --gin.D_MODEL=128); 2 more"."""
    texts = []
    for change in found:
        # The flag that has set it, and the line of a file that it overrides.
        own = [binding for binding in present if _is_of(binding, change.name)]
        places = [b.place for b in own if not b.from_flag][-1:] + [
            b.place for b in own if b.from_flag
        ][-1:]
        where = f" ({', '.join(places)})" if places else ""
        texts.append(f"{change}{where}")
    return list_changes(texts, _MOST_CHANGES)


def _names_below(bindings: Sequence[Binding], sources: Sequence[str]) -> set[str]:
    below: dict[str, list[Binding]] = {}  # by the name of a macro, or of a class without its module
    for binding in bindings:
        key = binding.scope if binding.selector == MACRO else last_part(binding.selector)
        below.setdefault(key, []).append(binding)
    queue = [b for b in bindings if any(b.name.endswith(source) for source in sources)]
    names: set[str] = set()
    while queue:
        binding = queue.pop()
        if binding.name in names or binding.parameter in _WITHOUT_VARIABLES:
            continue
        names.add(binding.name)
        for target in _targets(binding):
            queue += below.get(target, [])
    return names


def _targets(binding: Binding) -> Iterator[str]:
    for reference in binding.references():
        yield reference.macro or last_part(reference.selector)


def _is_of(binding: Binding, name: str) -> bool:
    """The name of a user's binding may have less of the module."""
    return name == binding.name or (
        binding.selector != MACRO
        and name.endswith(f"{last_part(binding.selector)}.{binding.parameter}")
        and name.startswith(f"{binding.scope}/" * bool(binding.scope))
    )


def _is_fraction(text: str | None) -> bool:
    try:
        return text is not None and not float(text).is_integer()
    except ValueError:
        return False
