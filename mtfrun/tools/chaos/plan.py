"""A gin file that lists the faults of a training, and the steps at which they happen."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

from mtfrun.configuration.gin_values import Reference
from mtfrun.configuration.statements import Binding, Statements
from mtfrun.errors import ConfigError, InputError, did_you_mean, list_some
from mtfrun.tools.chaos.faults import FAULTS, Fault

_CHAOS = "Chaos"
_EXAMPLE = "Chaos.events = [@Kill(), @FlipBit()]"


@dataclasses.dataclass(frozen=True)
class Event:
    """A fault that happens once; `number` is its place in the plan."""

    number: int
    fault: Fault
    step: int
    process: int
    seed: int

    @property
    def rng(self) -> random.Random:
        return random.Random(f"{self.seed} {self.number}")

    @property
    def name(self) -> str:
        return type(self.fault).__name__


@dataclasses.dataclass(frozen=True)
class Plan:
    """The faults in the order of the file; `seed` of the steps, processes and bits to draw."""

    faults: Sequence[Fault]
    seed: int = 0

    def check(self, num_processes: int) -> None:
        for fault in self.faults:
            fault.check(num_processes)

    def events(self, num_steps: int, num_processes: int) -> list[Event]:
        """Returns the events of a training by their steps; InputError for one behind its end."""
        events: list[Event] = []
        for fault in [x for x in self.faults for _ in range(int(x.times))]:
            rng = random.Random(f"{self.seed} {len(events)} when")
            # Both are drawn in any case: one that is given does not change the other.
            step, process = rng.randint(1, max(1, num_steps - 1)), rng.randrange(num_processes)
            step = step if fault.at_step is None else int(fault.at_step)
            process = process if fault.process is None else int(fault.process)
            event = Event(len(events), fault, step, process, self.seed)
            if step >= num_steps:
                raise InputError(
                    f"{event.name}.at_step is {step}, and the run ends at step {num_steps:,}: "
                    "choose an earlier one"
                )
            events.append(event)
        return sorted(events, key=lambda event: event.step)


def read_plan(name: str, paths: Sequence[str]) -> Plan:
    """Returns the plan of a gin file; ConfigError, one line with the place, for a mistake."""
    statements = Statements()
    statements.add_file(name, paths)
    of_chaos: dict[str, Binding] = {}
    settings: dict[tuple[str, str], dict[str, Binding]] = {}
    for binding in statements.bindings:
        if binding.selector == _CHAOS and not binding.scope:
            of_chaos[binding.parameter] = binding
        elif binding.selector in FAULTS:
            _check_parameter(binding, binding.selector, FAULTS[binding.selector])
            settings.setdefault((binding.scope, binding.selector), {})[binding.parameter] = binding
        else:
            hint = did_you_mean(binding.selector, [_CHAOS, *FAULTS])
            raise ConfigError(
                f"{binding.place}: {binding.name} is not a setting of a plan"
                f"{hint or f', which has those of {_CHAOS} and of {list_some([*FAULTS], 9)}'}"
            )
    for binding in of_chaos.values():
        _check_parameter(binding, _CHAOS, _ChaosFields)
    if "events" not in of_chaos:
        raise ConfigError(f"{name} lists no faults: {_EXAMPLE}")
    references = _references(of_chaos["events"])
    _check_used(settings, references)
    faults = [_make_fault(reference, settings, of_chaos["events"]) for reference in references]
    seed = of_chaos["seed"].value if "seed" in of_chaos else 0
    if type(seed) is not int:
        raise ConfigError(
            f"{of_chaos['seed'].place}: Chaos.seed is {seed!r}: it must be an integer"
        )
    return Plan(faults, seed)


@dataclasses.dataclass
class _ChaosFields:
    events: Sequence[Reference]
    seed: int


def _check_parameter(binding: Binding, name: str, owner: Any) -> None:
    names = [field.name for field in dataclasses.fields(owner)]
    if binding.parameter not in names:
        hint = did_you_mean(binding.parameter, names) or f"; it has {', '.join(names)}"
        raise ConfigError(f"{binding.place}: {name} has no parameter {binding.parameter!r}{hint}")


def _references(events: Binding) -> list[Reference]:
    value = events.value
    if not (type(value) is list and value and all(isinstance(x, Reference) for x in value)):
        raise ConfigError(f"{events.place}: Chaos.events must be a list of faults: {_EXAMPLE}")
    for reference in value:
        if reference.selector not in FAULTS:
            hint = did_you_mean(reference.selector, FAULTS) or f"; there are {', '.join(FAULTS)}"
            raise ConfigError(f"{events.place}: {reference} is not a fault{hint}")
        if not reference.called or len(reference.scopes) > 1:
            raise ConfigError(
                f"{events.place}: {reference}: write @{reference.selector}(), or "
                f"@NAME/{reference.selector}() for settings NAME/{reference.selector}.at_step"
            )
    return list(value)


def _check_used(
    settings: dict[tuple[str, str], dict[str, Binding]], references: Sequence[Reference]
) -> None:
    used = {("/".join(reference.scopes), reference.selector) for reference in references}
    used |= {("", reference.selector) for reference in references}
    for key, bindings in settings.items():
        if key not in used:
            binding = next(iter(bindings.values()))
            called = "/".join(filter(None, key))
            raise ConfigError(
                f"{binding.place}: {binding.name} has no effect: Chaos.events has no @{called}()"
            )


def _make_fault(
    reference: Reference,
    settings: dict[tuple[str, str], dict[str, Binding]],
    events: Binding,
) -> Fault:
    scope, name = "/".join(reference.scopes), reference.selector
    bindings = {**settings.get(("", name), {}), **settings.get((scope, name), {})}
    try:
        return FAULTS[name](**{key: binding.value for key, binding in bindings.items()})
    except InputError as error:
        # The message begins with the parameter, such as Kill.at_step.
        parameter = str(error).split()[0].rpartition(".")[2]
        raise ConfigError(f"{bindings.get(parameter, events).place}: {error}") from None
