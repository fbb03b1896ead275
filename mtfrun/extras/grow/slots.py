"""The optimizer's slots of a larger model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mtfrun import optim
from mtfrun.extras.grow.variables import GrownVariables

Read = Callable[[str], np.ndarray]
"""Returns a slot of the old checkpoint by its path."""

# Of the squares of gradients: all, or the means over one side each, see `optim.Adafactor`.
_SQUARES, _MEANS = "v", ("vr", "vc")


def grow_slots(
    old: optim.Optimizer, new: optim.Optimizer, variables: GrownVariables, read: Read
) -> dict[str, np.ndarray]:
    """Returns values of the new optimizer by path, if the old one is of the same class."""
    if not isinstance(old, optim.SlotOptimizer) or type(old) is not type(new):
        return {}
    assert isinstance(new, optim.SlotOptimizer)
    slots = {
        f"{path}/{name}": _grow(old, new, path, name, variables, read)
        for path, of_variable in new.slots.items()
        for name in of_variable
    }
    for path in new.named_slots().keys() & old.named_slots().keys() - slots.keys():
        slots[path] = read(path)  # of no variable
    return {path: value for path, value in slots.items() if value is not None}


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
