"""What gin accepts in silence: bindings that nothing uses, unknown macros, values of a wrong type.

gin binds any name to any value. A mistyped macro, a parameter of a base class, or of an optimizer
that was exchanged, changes nothing and says nothing. Which bindings can take effect follows from
the references, starting at the classes that the program calls.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import gin
from mtfrun.cli.configuration.files import shipped_files_with
from mtfrun.cli.configuration.statements import MACRO, Binding, Reference, Statements
from mtfrun.cli.errors import ConfigError
from mtfrun.errors import did_you_mean

# What is configured: a scope and a class or function.
_Target = tuple[str, Any]
# A call: the scopes in which it happens, and the class or function.
_Call = tuple[tuple[str, ...], Any]

# How many values may lie inside each other, each the argument of the call for the next one: gin
# computes them recursively. Models need about ten.
_MAX_CALLS = 64

# The heading of everything that was called, in gin's operative configuration.
_CALLED = re.compile(r"^# Parameters for (?:.*/)?(.*):$", re.MULTILINE)


def check_bindings(bindings: Sequence[Binding], roots: Sequence[Any]) -> set[_Target]:
    """Returns what can take effect: (scope, class or function) of every binding that is used.

    Args:
      bindings: in the order in which they take effect.
      roots: the registered classes that the program itself calls.

    Raises:
      ConfigError: an unknown macro, a value that depends on itself, a binding without effect, a
        value of a wrong type.
    """
    last = {(_target(binding), binding.parameter): binding for binding in bindings}
    _check_macros_exist(bindings, last.values())
    _check_ends(last.values(), _calls(last.values(), roots))
    used = _reachable(last.values(), roots)
    # Whoever exchanges the optimizer need not also unbind what defaults.gin says of the other one:
    # in files a binding may be used by a reference that a later one has replaced.
    once_used = _reachable(bindings, roots)
    for (target, _), binding in last.items():
        if target not in (used if binding.from_flag else once_used):
            raise ConfigError(_unused(binding, target, used))
        if target in used and target[1] != MACRO:
            _check_type(binding, target[1], last)
    return used


def check_taken(bindings: Sequence[Binding], operative_config: str) -> None:
    """Raises ConfigError if something was called with another value than the configuration's.

    Where the program itself gives an argument, gin drops what is bound to it.

    Args:
      bindings: in the order in which they take effect.
      operative_config: gin's, after everything was built.
    """
    called = {target_of(name) for name in _CALLED.findall(operative_config)}
    operative = Statements()
    operative.add_text(operative_config)
    taken = {(target_of(b.selector), b.parameter) for b in operative.bindings}
    for binding in reversed(bindings):
        target = target_of(binding.selector)
        if target in called and (target, binding.parameter) not in taken:
            raise ConfigError(
                f"{binding.place}: {binding.name} has no effect: the program sets it itself"
            )


def target_of(selector: str) -> Any:
    """Returns the registered class or function of a selector, MACRO for gin's macro."""
    return MACRO if selector == MACRO else gin.get_configurable(selector)


def _target(binding: Binding) -> _Target:
    return binding.scope, target_of(binding.selector)


def _check_macros_exist(bindings: Iterable[Binding], last: Iterable[Binding]) -> None:
    macros = {binding.scope for binding in bindings if binding.selector == MACRO}
    for binding in last:
        for reference in binding.references():
            name = reference.scopes[-1] if reference.scopes else ""
            if reference.selector == MACRO and name not in macros and "." not in name:
                raise ConfigError(
                    f"{binding.place}: macro {name} has no value{_remedy(name, macros)}"
                )


def _remedy(name: str, macros: Iterable[str]) -> str:
    """Returns what to do about a macro without a value."""
    guess = did_you_mean(name, macros)
    if guess:
        return guess
    files = ", ".join(shipped_files_with(name))
    return f"; it has one in {files}" if files else "; give it one in a gin file"


def _reachable(bindings: Iterable[Binding], roots: Iterable[Any]) -> set[_Target]:
    """Returns the targets that take effect when the program calls the roots."""
    calls = _calls(bindings, roots)
    return {(scope, call[1]) for call in calls for scope in _scopes_of(call)}


def _calls(bindings: Iterable[Binding], roots: Iterable[Any]) -> dict[_Call, None]:
    """Returns what may be called when the program calls the roots."""
    references: dict[_Target, list[Reference]] = {}
    for binding in bindings:
        references.setdefault(_target(binding), []).extend(binding.references())
    calls: dict[_Call, None] = {}
    queue: list[_Call] = [((), root) for root in roots]
    while queue:
        call = queue.pop()
        if call in calls:
            continue
        calls[call] = None
        for scope in _scopes_of(call):
            for reference in references.get((scope, call[1]), ()):
                queue.append(_call_of(reference, call))
    return calls


def _scopes_of(call: _Call) -> list[str]:
    """Returns the scopes whose bindings a call takes: in a/b those of "", of a and of a/b."""
    scopes = call[0]
    return ["/".join(scopes[:i]) for i in range(len(scopes) + 1)]


def _call_of(reference: Reference, inside: _Call) -> _Call:
    return reference.scopes or inside[0], target_of(reference.selector)


def _check_ends(bindings: Iterable[Binding], calls: Iterable[_Call]) -> None:
    """Raises ConfigError if the arguments of a call can never be computed.

    Args:
      bindings: those that take effect, one for each parameter of each target.
      calls: what is called, where it is not for an argument of another call.
    """
    arguments: dict[_Target, dict[str, Binding]] = {}
    for binding in bindings:
        arguments.setdefault(_target(binding), {})[binding.parameter] = binding

    def needed(call: _Call) -> Iterator[tuple[Binding, _Call]]:
        """Yields the calls that an argument of this one is the result of, with its binding."""
        taken: dict[str, Binding] = {}
        for scope in _scopes_of(call):
            taken |= arguments.get((scope, call[1]), {})
        for binding in taken.values():
            for reference in binding.references():
                if reference.called:
                    yield binding, _call_of(reference, call)

    ended: set[_Call] = set()
    for first in calls:
        path: dict[_Call, Iterator[tuple[Binding, _Call]]] = {first: needed(first)}
        while path:
            call, ahead = next(reversed(path.items()))
            step = next(ahead, None)
            if step is None:
                ended.add(call)
                del path[call]
                continue
            binding, following = step
            if following in path:
                cycle = list(path)[list(path).index(following) :]
                raise ConfigError(f"{binding.place}: {_cycle_text(cycle)}")
            elif len(path) > _MAX_CALLS:
                raise ConfigError(
                    f"{binding.place}: {binding.name} is {_MAX_CALLS} references deep: give a value"
                )
            elif following not in ended:
                path[following] = needed(following)


def _cycle_text(cycle: Sequence[_Call]) -> str:
    names = [
        scopes[-1] if function == MACRO else "/".join([*scopes, function.__name__])
        for scopes, function in cycle
    ]
    if len(names) == 1:
        return f"the value of {names[0]} depends on itself: give it another one"
    around = ", ".join([*names[1:6], "..."] if len(names) > 6 else names[1:])
    return f"the value of {names[0]} depends on itself, by way of {around}: give one a value"


def _unused(binding: Binding, target: _Target, used: set[_Target]) -> str:
    if target[1] == MACRO:
        names = [scope for scope, function in used if function == MACRO]
        hint = did_you_mean(binding.scope, names)
        return f"{binding.place}: macro {binding.scope} has no effect: nothing uses it{hint}"
    derived = [
        function.__name__
        for _, function in used
        if isinstance(function, type)
        and isinstance(target[1], type)
        and target[1].__mro__[1] in function.__mro__[2:]
    ]
    if derived:
        remedy = f"a base class is not configured; bind it on {derived[0]}"
    else:
        remedy = f"nothing in this configuration refers to {binding.selector}"
    return f"{binding.place}: {binding.name} has no effect: {remedy}"


def _check_type(
    binding: Binding, function: Any, last: Mapping[tuple[_Target, str], Binding]
) -> None:
    """Raises ConfigError where a literal does not fit a parameter of a plain type."""
    value, place = binding.value, binding.place
    while isinstance(value, Reference) and value.selector == MACRO:
        macro = last.get(((value.scopes[-1], MACRO), "value"))
        if macro is None:
            return
        value, place = macro.value, macro.place
    allowed = _plain_types(function, binding.parameter)
    if not allowed or isinstance(value, Reference):
        return
    accepts_int = float in allowed and type(value) is int
    if type(value) not in allowed and not accepts_int:
        names = " or ".join("None" if t is type(None) else t.__name__ for t in allowed)
        raise ConfigError(
            f"{place}: {binding.selector}.{binding.parameter} is {value!r}: it must be {names}"
        )


def _plain_types(function: Any, parameter: str) -> tuple[type, ...]:
    """Returns the types that the annotation of a parameter allows; none if it is not that plain."""
    target = function
    if isinstance(function, type):
        target = target.__init__
    try:
        annotation = typing.get_type_hints(target).get(parameter)
    except (NameError, TypeError):
        return ()  # names that exist for type checkers only
    is_union = (
        isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union
    )
    options = typing.get_args(annotation) if is_union else (annotation,)
    plain = (int, float, bool, str, type(None))
    return options if all(option in plain for option in options) else ()
