"""The variables of a larger model and its optimizer: where each comes from, and its value."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mtfrun import mtf, optim
from mtfrun.errors import InputError, list_some
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.stream import D_MODEL
from mtfrun.models import Model

# Blocks of a stack, and of a stage of a ResNet.
_BLOCK = re.compile(r"(?P<stack>.*?(?:^|/)(?:blocks|stages/\d+)/)(?P<number>\d+)/(?P<name>.*)")
_SUBLAYER = re.compile(r"(.*?(?:^|/)blocks/\d+/)([^/]+)/(.*)")

# Variables of a mixture of experts, and their sources in a mixture of one level or in a
# feed-forward layer; the first that exists is taken.
_MIXTURE_SOURCES = (
    (r"(?<=/layer/)(?:outer|inner)_router/(.*)", r"router/\1"),
    (r"(?<=/layer/)experts/wi/factors/0/(.*)", r"wi/\1"),
    (r"(?<=/layer/)experts/wi/factors/(\d+)/(.*)", r"wi_\1/\2"),
    (r"(?<=/layer/)experts/wo/(.*)", r"wo/\1"),
)
_ROUTER = re.compile(r".*/layer/(?:outer_|inner_)?router/.*")


class Origin(NamedTuple):
    """Where a variable comes from.

    Attributes:
      source: the path in the old model; None for a new variable.
      twin: the path of the same variable in the last old block, for a variable of a new block.
    """

    source: str | None = None
    twin: str | None = None


def match_paths(old: Iterable[str], new: Iterable[str]) -> dict[str, Origin]:
    """Returns the origin of every path of the new model.

    Blocks after the last old block are new. A mixture of experts may replace a feed-forward layer
    or a mixture of fewer levels.

    Raises:
      InputError: another new variable has no origin, or an old variable has no place.
    """
    old = list(old)
    sources = {place: path for path, place in _number_sublayers(old).items()}
    blocks = {match.group("stack", "number") for x in old if (match := _BLOCK.fullmatch(x))}
    origins: dict[str, Origin] = {}
    surplus = []
    for path, place in _number_sublayers(new).items():
        places = [place, *(re.sub(old_part, x, place) for old_part, x in _MIXTURE_SOURCES)]
        source = next((sources[x] for x in places if x in sources), None)
        twin = None if source is not None else _twin(path, blocks, origins)
        origins[path] = Origin(source, twin)
        if source is None and twin is None and not _ROUTER.fullmatch(path):
            surplus.append(path)
    used = {origin.source for origin in origins.values()}
    missing = [path for path in old if path not in used]
    if missing or surplus:
        parts = [f"has no place for {list_some(missing, 3)}"] if missing else []
        parts += [f"has {list_some(surplus, 3)} besides"] if surplus else []
        raise InputError(
            f"the new model differs by more than sizes: it {' and '.join(parts)}; layers keep "
            "their kind, but for mixtures of experts in the place of feed-forward layers"
        )
    return origins


def _number_sublayers(paths: Iterable[str]) -> dict[str, str]:
    """Returns, by path, the path with the place of a sublayer in its block instead of its name.

    The name has a number that depends on how often the list of layers has the same class.
    """
    names: dict[str, dict[str, int]] = {}
    numbered = {}
    for path in paths:
        match = _SUBLAYER.fullmatch(path)
        numbered[path] = path
        if match is not None:
            block, name, inner = match.groups()
            places = names.setdefault(block, {})
            numbered[path] = f"{block}{places.setdefault(name, len(places))}/{inner}"
    return numbered


def _twin(
    path: str, old_blocks: Collection[tuple[str, ...]], origins: Mapping[str, Origin]
) -> str | None:
    match = _BLOCK.fullmatch(path)
    if match is None or match.group("stack", "number") in old_blocks:
        return None
    for number in reversed(range(int(match["number"]))):
        twin = f"{match['stack']}{number}/{match['name']}"
        if twin in origins and origins[twin].twin is None:
            return twin
    return None


# The factor of a router's initial values. The experts of a token then have nearly equal weights,
# and the threshold of `moe.Top2` drops none of them.
_ROUTER_FACTOR = 0.1


class GrownVariables:
    """Initialises the new model, and maps values of the old model to its variables.

    Args:
      noise: the standard deviation of the noise that copies get, relative to the values.

    Attributes:
      maps: the maps of the variables that come from old ones.

    Raises:
      InputError: the new model is not a larger one of the same kind.
    """

    def __init__(
        self, old: Model, new: Model, rules: Rules, *, seed: int, noise: float = 0.0
    ) -> None:
        self.old, self.new = old.named_variables(), new.named_variables()
        self.origins = match_paths(self.old, self.new)
        self.maps = {
            path: x
            for path, origin in self.origins.items()
            if origin.source is not None
            and (x := rules.variable_map(path, origin.source)) is not None
        }
        mtf.initialize(new, seed)
        self._initial: dict[str, np.ndarray] = mtf.to_numpy(self.new)
        self._noise = noise

    def grow(self, path: str, old: np.ndarray | None) -> np.ndarray:
        """Returns the value of a variable from the old value, which is None for a new variable.

        A layer of a new block adds 0 to the vectors between layers; other new variables are
        routers.
        """
        variable_map, variable = self.maps.get(path), self.new[path]
        if variable_map is None or old is None:
            factor = _ROUTER_FACTOR
            if self.origins[path].twin is not None:
                reduced = {dim.name for dim in variable.reduced_dims or ()}
                written = set(variable.shape.dimension_names) - reduced
                factor = 0.0 if reduced and D_MODEL in written else 1.0
            return self._initial[path] * np.float32(factor)
        value = variable_map.map_values(old, self._initial[path])
        if self._noise:
            value = value + self._noise * variable_map.differences(value, zlib.crc32(path.encode()))
        return value

    def table(self) -> list[tuple[str, str, str, str]]:
        """Returns rows (path, old dimensions, new dimensions, rule), one for all equal blocks."""
        rows: dict[tuple[str, str, str, str], int] = {}
        for path, origin in self.origins.items():
            variable_map = self.maps.get(path)
            rule = variable_map.describe() if variable_map is not None else "new, initial"
            if origin.twin is not None:
                rule = "new block"
            before = "" if origin.source is None else self.old[origin.source].shape.to_string
            after = self.new[path].shape.to_string
            row = re.sub(r"(?<=blocks/)\d+|(?<=stages/)\d+/\d+", "*", path), before, after, rule
            rows[row] = rows.get(row, 0) + 1
        return [
            (f"{path} ({count})" if count > 1 else path, before, after, rule)
            for (path, before, after, rule), count in rows.items()
        ]


Read = Callable[[str], np.ndarray]
"""Returns a slot of the old checkpoint by its path."""

# Slots of squared gradients: of the variable's shape, or the two means of `optim.Adafactor`.
_SQUARES, _MEANS = "v", ("vr", "vc")


def grow_slots(
    old: optim.Optimizer, new: optim.Optimizer, variables: GrownVariables, read: Read
) -> dict[str, np.ndarray]:
    """Returns the new optimizer's slots by path; empty if the old one is of another class."""
    if not isinstance(old, optim.SlotOptimizer) or type(old) is not type(new):
        return {}
    assert isinstance(new, optim.SlotOptimizer)
    slots = {
        f"{path}/{name}": _grow(old, new, path, name, variables, read)
        for path, variable_slots in new.slots.items()
        for name in variable_slots
    }
    for path in new.named_slots().keys() & old.named_slots().keys() - slots.keys():
        slots[path] = read(path)  # belongs to no variable
    return {path: value for path, value in slots.items() if value is not None}


def _grow(
    old: optim.SlotOptimizer,
    new: optim.SlotOptimizer,
    path: str,
    name: str,
    variables: GrownVariables,
    read: Read,
) -> np.ndarray | None:
    power, origin, reference_path = new.slot_powers.get(name), variables.origins[path], path
    if power == 0:
        is_old = origin.source in old.slots and name in old.slots[origin.source]
        return variables.grow(path, read(f"{origin.source}/{name}") if is_old else None)
    if power == 2 and origin.twin is not None:
        # Steps in a new block are as large as in the last old block.
        reference_path = origin.twin
    source = variables.origins[reference_path].source
    variable_map = variables.maps.get(reference_path)
    if power is None or variable_map is None or source is None or source not in old.slots:
        return None
    if power == 2:
        before = _squares(old, source, read)
    else:
        before = read(f"{source}/{name}") if name in old.slots[source] else None
    if before is None:
        return None
    after, shape = variable_map.map_gradients(before, power), new.variables[path].shape
    slot_dims = new.slots[path][name].shape.dimension_names
    means: np.ndarray = after.mean(
        axis=tuple(i for i, dim in enumerate(shape) if dim.name not in slot_dims)
    )
    return means


def _squares(old: optim.SlotOptimizer, path: str, read: Read) -> np.ndarray | None:
    """Returns the average of squared gradients in the shape of a variable."""
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
