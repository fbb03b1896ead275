"""The optimizer's slots of a larger model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mtfrun import optim
from mtfrun.extras.grow.variables import GrownVariables

Read = Callable[[str], np.ndarray]
"""Returns a slot of the old checkpoint by its path."""

# Of the squares of gradients: all, or the means over one side each, see `optim.Adafactor`.
_SQUARES, _MEANS = "v", ("vr", "vc")


class Slots(NamedTuple):
    """Values by path, and the paths of the slots that begin with 0."""

    values: dict[str, np.ndarray]
    missing: list[str]


def grow_slots(
    old: optim.Optimizer, new: optim.Optimizer, variables: GrownVariables, read: Read
) -> Slots:
    """Returns the slots of the new optimizer, if the old one is of the same class."""
    if not isinstance(old, optim.SlotOptimizer) or type(old) is not type(new):
        return Slots({}, list(new.named_slots()))
    slots = Slots({}, [])
    assert isinstance(new, optim.SlotOptimizer)
    for path, of_variable in new.slots.items():
        for name in of_variable:
            value = _grow(old, new, path, name, variables, read)
            if value is None:
                slots.missing.append(f"{path}/{name}")
            else:
                slots.values[f"{path}/{name}"] = value
    for path in new.named_slots().keys() & old.named_slots().keys():
        if path not in slots.values and path not in slots.missing:  # of no variable
            slots.values[path] = read(path)
    return slots


def _grow(
    old: optim.SlotOptimizer,
    new: optim.SlotOptimizer,
    path: str,
    name: str,
    variables: GrownVariables,
    read: Read,
) -> np.ndarray | None:
    power, origin, of_path = new.slot_powers.get(name), variables.origins[path], path
    if power == 0:
        is_old = origin.source in old.slots and name in old.slots[origin.source]
        return variables.grow(path, read(f"{origin.source}/{name}") if is_old else None)
    if power == 2 and origin.twin is not None:
        # Steps of a new block are as large as steps of the last old one.
        of_path = origin.twin
    source, plan = variables.origins[of_path].source, variables.plans.get(of_path)
    if power is None or plan is None or source is None or source not in old.slots:
        return None
    if power == 2:
        before = _squares(old, source, read)
    else:
        before = read(f"{source}/{name}") if name in old.slots[source] else None
    if before is None:
        return None
    after, whole = plan.of_gradients(before, power), new.variables[path].shape
    kept = new.slots[path][name].shape.dimension_names
    means: np.ndarray = after.mean(
        axis=tuple(i for i, dim in enumerate(whole) if dim.name not in kept)
    )
    return means


def _squares(old: optim.SlotOptimizer, path: str, read: Read) -> np.ndarray | None:
    """Returns the squares of gradients with all dimensions of a variable."""
    slots, whole = old.slots[path], old.variables[path].shape
    if _SQUARES in slots:
        return read(f"{path}/{_SQUARES}")
    if not all(name in slots for name in _MEANS):
        return None
    rows, columns = (
        read(f"{path}/{x}").reshape(
            [dim.size if dim.name in slots[x].shape.dimension_names else 1 for dim in whole]
        )
        for x in _MEANS
    )
    # As in `optim.adafactor.factored_direction`.
    names = slots[_MEANS[1]].shape.dimension_names
    second = tuple(i for i, dim in enumerate(whole) if dim.name not in names)
    squares: np.ndarray = rows * columns / np.maximum(rows.mean(second, keepdims=True), 1e-30)
    return squares
