"""Checks that gin does not make: unused bindings, unknown macros, values of a wrong type.

To gin, a mistyped macro, or a parameter of an optimizer that was replaced, is not an error. Which
bindings can take effect follows from the references, starting at the classes the program calls.
"""

from __future__ import annotations

import graphlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from mtfrun.configuration.files import example_flag, shipped_files_with, shipped_gin_files
from mtfrun.configuration.gin_values import MACRO, Reference, num_parts
from mtfrun.configuration.published import load_published
from mtfrun.configuration.statements import Binding, bindings_in, follow, macros_of
from mtfrun.configuration.value_types import check_value
from mtfrun.errors import ConfigError, did_you_mean, list_some

# The object of a binding: a scope and a class or function.
_Target = tuple[str, Any]
# A call: the scopes in which it happens, and the class or function.
_Call = tuple[tuple[str, ...], Any]

# The largest depth of calls in arguments of other calls: gin computes them recursively. Models
# need about ten.
_MAX_CALLS = 64

# The largest number of values within a value; gin copies them at every call.
_MOST_PARTS = 100_000

# The heading of a class or function that was called, in gin's operative configuration.
_CALLED = re.compile(r"^# Parameters for (?:.*/)?(.*):$", re.MULTILINE)


def check_bindings(bindings: Sequence[Binding], roots: Sequence[Any]) -> set[_Target]:
    """Returns the targets of all bindings that can take effect when the program calls `roots`."""
    last = last_bindings(bindings)
    macros = macros_of(last)
    check_macros(bindings)
    calls = calls_of(last, roots)
    _check_nesting(arguments_of(last, calls))
    used = _targets_of(calls)
    # A user who replaces the optimizer need not unbind the parameters of that in defaults.gin: a
    # binding in a file may also be used by a reference that a later binding has replaced.
    once_used = _targets_of(calls_of(bindings, roots))
    for binding in last:
        target = _target(binding)
        if target not in (used if binding.from_flag else once_used):
            if target[1] != MACRO:
                what = f"{binding.place}: {binding.name} has no effect: nothing in this"
                raise ConfigError(f"{what} configuration refers to {binding.selector}")
            # Such as the mean of photographs' pixels, for a model that does not normalise them.
            if binding.place.rpartition(":")[0] not in shipped_gin_files():
                macro_names = [scope for scope, function in used if function == MACRO]
                raise ConfigError(_unused_macro(binding, macro_names))
            continue
        if target in used and any(r.macro == "gin.REQUIRED" for r in binding.references()):
            flag = example_flag(binding.name)
            raise ConfigError(f"{binding.place}: {binding.name} needs a value, as in {flag}")
        if target in used and target[1] != MACRO:
            check_value(binding, target[1], macros)
    return used


def check_macros(bindings: Sequence[Binding]) -> None:
    """Raises ConfigError for macros without a value and unused macros of flags; does not import."""
    macros = macros_of(bindings)
    last = {(b.scope, b.selector.rpartition(".")[2], b.parameter): b for b in bindings}
    for binding in last.values():
        for name in (reference.macro for reference in binding.references()):
            if name and name not in macros and "." not in name:
                remedy = _remedy(name, macros)
                raise ConfigError(f"{binding.place}: macro {name} has no value{remedy}")
    used = {r.macro for binding in bindings for r in binding.references() if r.macro}
    for binding in bindings:
        if binding.from_flag and binding.selector == MACRO and binding.scope not in used:
            raise ConfigError(_unused_macro(binding, used))


def check_taken(bindings: Sequence[Binding], operative_config: str) -> None:
    """Raises ConfigError for values that gin ignored, since the program passes the argument."""
    called = {target_of(name) for name in _CALLED.findall(operative_config)}
    operative = bindings_in(operative_config)
    taken = {(target_of(b.selector), b.parameter) for b in operative}
    for binding in reversed(bindings):
        target = target_of(binding.selector)
        if target in called and (target, binding.parameter) not in taken:
            what = f"{binding.place}: {binding.name}"
            raise ConfigError(f"{what} has no effect: the program sets it itself")


def target_of(selector: str) -> Any:
    """Returns the registered class or function of a selector, MACRO for gin's macro.

    gin registers a class under the first of its names that a configuration uses. Here its other
    names are looked up, such as `transformer.LayerNorm` after `layers.LayerNorm`.
    """
    if selector == MACRO:
        return MACRO
    try:
        return gin.get_configurable(selector)
    except ValueError:
        published = load_published()
        if selector not in published:
            raise
        return gin.get_configurable(published[selector])


def _target(binding: Binding) -> _Target:
    return binding.scope, target_of(binding.selector)


def _remedy(name: str, macros: Iterable[str]) -> str:
    hint = did_you_mean(name, macros)
    if hint:
        return hint
    files = shipped_files_with(name)
    if "defaults.gin" in files:
        return "; it has one in defaults.gin: write --gin_file=defaults.gin before other files"
    return f"; it has one in {', '.join(files)}" if files else "; give it one in a gin file"


def last_bindings(bindings: Iterable[Binding]) -> list[Binding]:
    """Returns the final binding of each parameter."""
    return list({(_target(binding), binding.parameter): binding for binding in bindings}.values())


def calls_of(bindings: Iterable[Binding], roots: Iterable[Any]) -> list[_Call]:
    """Returns the calls that calling the roots may lead to, in a fixed order."""
    references: dict[_Target, list[Reference]] = {}
    for binding in bindings:
        references.setdefault(_target(binding), []).extend(binding.references())

    def calls_in(call: _Call) -> Iterator[_Call]:
        for scope in _scopes_of(call):
            yield from (_call_of(ref, call) for ref in references.get((scope, call[1]), ()))

    return follow([((), root) for root in roots], calls_in)


def arguments_of(
    bindings: Iterable[Binding], calls: Iterable[_Call]
) -> dict[_Call, dict[str, Binding]]:
    """Returns the bindings that apply to each call, by parameter; an inner scope goes first."""
    by_target: dict[_Target, dict[str, Binding]] = {}
    for binding in bindings:
        by_target.setdefault(_target(binding), {})[binding.parameter] = binding
    arguments: dict[_Call, dict[str, Binding]] = {call: {} for call in calls}
    for call, call_bindings in arguments.items():
        for scope in _scopes_of(call):
            call_bindings |= by_target.get((scope, call[1]), {})
    return arguments


def _targets_of(calls: Iterable[_Call]) -> set[_Target]:
    return {(scope, call[1]) for call in calls for scope in _scopes_of(call)}


def _scopes_of(call: _Call) -> list[str]:
    """Returns the scopes with bindings that apply to a call: for a/b "", a and a/b."""
    scopes = call[0]
    return ["/".join(scopes[:i]) for i in range(len(scopes) + 1)]


def _call_of(reference: Reference, inside: _Call) -> _Call:
    return reference.scopes or inside[0], target_of(reference.selector)


def _check_nesting(arguments: Mapping[_Call, Mapping[str, Binding]]) -> None:
    """Raises ConfigError for calls with arguments that are cyclic, too deep or too large.

    Nested macros may give a value of 2^n parts.
    """
    inner_calls = {
        call: {
            _call_of(reference, call): binding
            for binding in call_bindings.values()
            for reference in binding.references()
            if reference.called
        }
        for call, call_bindings in arguments.items()
    }
    try:
        inner_first = list(graphlib.TopologicalSorter(inner_calls).static_order())
    except graphlib.CycleError as error:
        cycle = error.args[1][:0:-1]  # each needs the next
        place = inner_calls[cycle[-1]][cycle[0]].place
        raise ConfigError(f"{place}: {_cycle_text(cycle)}") from None
    depths: Counter[_Call] = Counter()
    sizes: Counter[_Call] = Counter()  # of macros
    for call in inner_first:
        for inner, binding in inner_calls[call].items():
            depths[call] = max(depths[call], depths[inner] + 1)
            if depths[call] > _MAX_CALLS:
                what = f"{binding.place}: {binding.name}"
                raise ConfigError(f"{what} is {_MAX_CALLS} references deep: give a value")
        for binding in arguments[call].values():
            references = (_call_of(reference, call) for reference in binding.references())
            size = num_parts(binding.value) + sum(sizes[inner] for inner in references)
            if size > _MOST_PARTS:
                what = f"{binding.place}: {binding.name}"
                raise ConfigError(f"{what} has more than {_MOST_PARTS} parts")
            sizes[call] = size if call[1] == MACRO else 0


def _cycle_text(cycle: Sequence[_Call]) -> str:
    names = [
        scopes[-1] if function == MACRO else "/".join([*scopes, function.__name__])
        for scopes, function in cycle
    ]
    way = f", by way of {list_some(names[1:], 5)}" if names[1:] else ""
    return f"the value of {names[0]} depends on itself{way}: give it another one"


def _unused_macro(binding: Binding, used: Iterable[str]) -> str:
    hint = did_you_mean(binding.scope, used)
    return f"{binding.place}: macro {binding.scope} has no effect: nothing uses it{hint}"
