"""The rule of every dimension: which entries are copied, with which factor, and how new ones begin.

A layer keeps its function if, for every dimension that grows, either the weights that produce the
new entries or the weights that sum over them are 0. With copies, entries repeat, and the weights
that sum over them are divided by their number. docs/extras/grow.md lists the rules.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.grow.dimension_map import (
    DimensionMap,
    VariableMap,
    copies,
    first,
    match_places,
    twice,
)
from mtfrun.extras.grow.heads import HEADS, QUERY_HEADS, Grouping, attention_of, regroup, with_heads
from mtfrun.extras.grow.stream import D_EMBEDDING, D_MODEL, Stream
from mtfrun.layers import LayerNorm, LinearDistanceBias, MultiHeadAttention, RMSNorm
from mtfrun.layers.attention.positions.relative_position import alibi_slopes
from mtfrun.models import Model
from mtfrun.models.moe import GateContext, Router
from mtfrun.mtf.parameters.widths import plain_name

_D_KV = "d_kv"
# Their sizes define the layer, and cannot grow.
_FIXED = ("buckets", "filter_height", "filter_width", "channels", "relative_position", D_EMBEDDING)
_SHARED = ("key_value", "key_value_bias")
_MEMORY = ("key", "value", "key_bias", "value_bias", *_SHARED, "key_norm")
_KEYS = ("key", "key_bias", *_SHARED)
_D_FF, _HIDDEN = "d_ff", "expert_hidden"
_EXPERTS, _EXPERT_X, _EXPERT_Y = "experts", "expert_x", "expert_y"
_LEVELS = frozenset((_EXPERTS, _EXPERT_X, _EXPERT_Y))
# In a U-Net, the convolutions that read the concatenated outputs of two blocks.
_BLOCK_UP = re.compile(r"up/\d+/convolutions/0/")
# The suffix of the experts that a router chooses among.
_UNSPLIT = "_unsplit"


@dataclasses.dataclass(frozen=True, eq=False)
class _Place:
    """A variable of the new model, the variable that it comes from, and the attention that has it.

    Attributes:
      old_dims, new_dims: the dimensions of both, renamed and split for the rules.
      averaged: the old dimensions over which values are averaged.
      maps: maps that take precedence over the rule of a dimension.
      attention: the old and the new attention.
      member: the variable's attribute in the attention, such as "query"; "" outside of attention.
    """

    path: str
    old: mtf.Variable
    new: mtf.Variable
    old_dims: Sequence[mtf.Dimension]
    new_dims: Sequence[mtf.Dimension]
    averaged: frozenset[str] = frozenset()
    maps: Mapping[str, DimensionMap] = dataclasses.field(default_factory=dict)
    attention: tuple[MultiHeadAttention, MultiHeadAttention] | None = None
    member: str = ""

    def is_summed(self, name: str) -> bool:
        """Returns whether products with the variable sum over a dimension."""
        reduced = self.new.reduced_dims
        if reduced is None:
            raise InputError(
                f"variable {self.path} does not say over which dimensions products with it sum: "
                "make it with mtf.Variable(reduced_dims=[...]), [] for a table, a scale or a bias"
            )
        names = {_without_split(dim.name) for dim in reduced}
        return name in names or (name == QUERY_HEADS and HEADS in names)


class Rules:
    """The maps of the variables of a larger model.

    Args:
      with_copies: new entries repeat old ones where this keeps the function.
      vocabulary: the map of "vocab"; None if the vocabulary stays the same.

    Attributes:
      notes: reasons why the function changes.
    """

    def __init__(
        self,
        old: Model,
        new: Model,
        *,
        with_copies: bool = False,
        vocabulary: DimensionMap | None = None,
    ) -> None:
        self._with_copies = with_copies
        self._vocabulary = vocabulary
        self._old, self._new = old.named_variables(), new.named_variables()
        self._old_modules, self._new_modules = old.named_modules(), new.named_modules()
        self._stream = Stream(self._old_modules, self._new_modules, with_copies=with_copies)
        self._has_slopes = any(
            isinstance(module, LinearDistanceBias) for module in self._new_modules.values()
        )
        self.notes: dict[str, None] = {}

    def variable_map(self, path: str, source: str) -> VariableMap | None:
        """Returns the map of a variable, None for its initial value; InputError if none exists."""
        place = self._place(path, source)
        if place is None:
            return None
        sizes = {dim.name: dim.size for dim in place.old_dims}
        axes: list[tuple[str | None, DimensionMap]] = []
        for name, size in place.new_dims:
            dim_map = place.maps.get(name) or self._map(place, name, sizes.get(name), size)
            axes.append((name if name in sizes else None, dim_map))
        if lost := sizes.keys() - {name for name, _ in axes} - place.averaged:
            raise InputError(f"{path}: the new model lacks the dimension {', '.join(sorted(lost))}")
        owners = _owner(self._old_modules, source), _owner(self._new_modules, path)
        if len({type(owner.gate) for owner in owners if isinstance(owner, Router)}) > 1:
            self.notes["routers have another gate"] = None
        factor, offset = self._factor(place)
        return VariableMap(place.old_dims, axes, place.new.shape, factor, offset)

    def _place(self, path: str, source: str) -> _Place | None:
        variables = self._old[source], self._new[path]
        old, new = (
            [mtf.Dimension(_without_split(name), size) for name, size in variable.shape]
            for variable in variables
        )
        place = _Place(path, *variables, old, new)
        words = path.split("/")
        for number in range(1, len(words)):
            after = self._new_modules.get("/".join(words[:number]))
            before = self._old_modules.get(source.removesuffix("/" + "/".join(words[number:])))
            if isinstance(after, MultiHeadAttention) and isinstance(before, MultiHeadAttention):
                attention, member = (before, after), words[number]
                place = dataclasses.replace(place, attention=attention, member=member)
                break
        names = {dim.name for dim in (*old, *new)}
        if place.member in _MEMORY[:-1] or HEADS in names:
            return self._with_heads(place)
        return place if names.isdisjoint(_LEVELS) else self._with_experts(place)

    def _with_heads(self, place: _Place) -> _Place:
        stack = place.path.partition("/")[0]
        attention = place.attention or attention_of(stack, self._old_modules, self._new_modules)
        if attention is None:
            return place
        old, new = place.old_dims, place.new_dims
        before, after = map(Grouping.of, attention)
        between = regroup(before, after)
        if place.member not in _MEMORY:
            # The old heads, split as `between`, which has as many query heads.
            old, new = with_heads(old, *between), with_heads(new, *after)
            return dataclasses.replace(place, old_dims=old, new_dims=new)
        place = dataclasses.replace(place, new_dims=with_heads(new, after.heads))
        if between.heads < before.heads:
            self.notes["keys and values of several heads become their mean"] = None
            old = with_heads(old, between.heads, before.heads // between.heads)
            return dataclasses.replace(place, old_dims=old, averaged=frozenset([QUERY_HEADS]))
        repeated, maps = between.heads // before.heads, {}
        if repeated > 1:
            number = np.arange(after.heads)
            source = np.where(number < between.heads, number // repeated, -1)
            rule = f"each {repeated} times" + ", then new" * (after.heads > between.heads)
            maps[HEADS] = DimensionMap(source, rule=rule)
        return dataclasses.replace(place, old_dims=with_heads(old, before.heads), maps=maps)

    def _with_experts(self, place: _Place) -> _Place | None:
        """Returns None for an inner router, if it has its initial value."""
        old, names = place.old_dims, {dim.name for dim in place.new_dims}
        if _HIDDEN in names:
            old = [mtf.Dimension(_HIDDEN if name == _D_FF else name, size) for name, size in old]
        number = dict(old).get(_EXPERTS)
        if number is None or _EXPERTS in names:
            return dataclasses.replace(place, old_dims=old)
        layer = place.path[: place.path.rindex("/layer/")]
        experts = dict(self._new[f"{layer}/layer/experts/wo/kernel"].shape)
        num_x, num_y = experts[_EXPERT_X], experts[_EXPERT_Y]
        if num_x >= number:
            if "/inner_router/" in place.path:
                return None
            old = [mtf.Dimension(_EXPERT_X if n == _EXPERTS else n, size) for n, size in old]
            return dataclasses.replace(place, old_dims=old)
        num_old, remainder = divmod(number, num_x)
        if remainder or num_old > num_y:
            raise InputError(
                f"{place.path}: {number} experts become groups of experts: at least as "
                f"many, or equal ones with a place for each expert, not {num_x} x {num_y}"
            )
        self.notes["experts of one level are put into groups, which another router chooses"] = None
        at = [dim.name for dim in old].index(_EXPERTS)
        two = [mtf.Dimension(_EXPERT_X, num_x), mtf.Dimension(_EXPERT_Y, num_old)]
        old = [*old[:at], *two, *old[at + 1 :]]
        return dataclasses.replace(place, old_dims=old, averaged=frozenset([_EXPERT_Y]))

    def _map(self, place: _Place, name: str, old: int | None, new: int) -> DimensionMap:
        """Returns the map of a dimension; its size `old` is None if the old variable lacks it."""
        plain = plain_name(mtf.Dimension(name, new))
        is_replaced = plain == "vocab" and self._vocabulary is not None
        if old is not None and new < old and not is_replaced:
            raise InputError(
                f"{place.path}: {name} would shrink from {old} to {new}: a model can only grow"
            )
        if plain in _LEVELS:
            return self._map_of_experts(place, name, old, new)
        if old is None:
            raise InputError(f"{place.path}: the old model lacks the dimension {name}:{new}")
        if plain == "vocab" and self._vocabulary is not None:
            return self._vocabulary
        if new == old:
            return DimensionMap(first(old, new))
        if plain in _FIXED:
            raise InputError(f"{place.path}: {name} cannot grow from {old} to {new}")
        is_summed = place.is_summed(name)
        if plain == D_MODEL:
            if not self._stream.keeps_function:
                self.notes["d_model is not a multiple, which its norms need here"] = None
            return self._stream.map(place.path, place.new, old, new, is_summed=is_summed)
        if plain in ("vocab", "max_length", "classes"):
            return DimensionMap(first(old, new), fill="mean" if plain == "classes" else "initial")
        if plain == _D_KV and place.attention is not None:
            return self._map_of_d_kv(place, is_summed=is_summed)
        if is_summed and _BLOCK_UP.match(place.path):
            half = self._map_of_units(place, plain, old // 2, new // 2, is_summed=True)
            factor = np.tile(np.broadcast_to(half.factor, new // 2), 2)
            return dataclasses.replace(half, source=twice(half.source, old // 2), factor=factor)
        return self._map_of_units(place, plain, old, new, is_summed=is_summed)

    def _map_of_units(
        self, place: _Place, plain: str, old: int, new: int, *, is_summed: bool
    ) -> DimensionMap:
        """Returns the map of copies, or of new entries that nothing reads yet."""
        if self._repeats(place, plain, old, new):
            return copies(old, new, is_summed=is_summed)
        source = first(old, new)
        if plain == HEADS and self._has_slopes:
            places = match_places(alibi_slopes(old), alibi_slopes(new))
            if places is None:
                self.notes["heads have other slopes"] = None
            source = source if places is None else places
        return DimensionMap(source, fill="zero" if is_summed else "initial")

    def _map_of_experts(self, place: _Place, name: str, old: int | None, new: int) -> DimensionMap:
        if old is None:
            self.notes[_MIXTURE_NOTE] = None
            equal = copies(1, new, is_summed=False)
            return dataclasses.replace(equal, rule=f"{name}:{new} copies")
        chooses = place.new.shape.dimension_names[-1] == name + _UNSPLIT
        if new > old:
            self.notes["the routers choose among further experts"] = None
        if chooses or new == old:
            return DimensionMap(first(old, new))
        return copies(old, new, is_summed=False)

    def _repeats(self, place: _Place, name: str, old: int, new: int) -> bool:
        """Returns whether entries repeat: on request, or because all heads have one norm."""
        if name in (HEADS, QUERY_HEADS) and place.attention is not None:
            _, attention = place.attention
            if attention.query_norm is not None and attention.heads.norm_heads == "together":
                if new % old:
                    self.notes["heads have one norm: their number must be a multiple"] = None
                return True
        return self._with_copies and not (name == HEADS and self._has_slopes)

    def _map_of_d_kv(self, place: _Place, *, is_summed: bool) -> DimensionMap:
        assert place.attention is not None
        before, after = place.attention
        old, new = before.heads.d_kv, after.heads.d_kv
        if self._repeats_d_kv(after):
            return copies(old, new, is_summed=is_summed)
        if after.query_norm is not None:
            raise InputError(
                f"{place.path}: d_kv cannot grow from {old} to {new}, for heads have norms and "
                "rotary positions: choose more heads instead"
            )
        source = first(old, new)
        if before.rotary is not None and after.rotary is not None and after.rotary.rotated is None:
            # The pairs are the two halves.
            half = match_places(before.rotary.frequencies(old), after.rotary.frequencies(new))
            if half is not None:
                source = twice(half, old // 2)
            else:
                self.notes["d_kv has other rotary frequencies: choose a multiple of it"] = None
        return DimensionMap(
            source, fill="zero" if is_summed or place.member in _KEYS else "initial"
        )

    def _repeats_d_kv(self, attention: MultiHeadAttention) -> bool:
        """Returns whether entries of d_kv repeat: on request, or to keep the norm of a head."""
        is_wanted = self._with_copies or attention.query_norm is not None
        return is_wanted and attention.rotary is None

    def _factor(self, place: _Place) -> tuple[float, float]:
        """Returns the map's factor and offset: they make up for factors that depend on sizes."""
        owner = _owner(self._new_modules, place.path)
        if owner is not None and owner is self._stream.final_norm:
            offset = owner.scale_offset if isinstance(owner, RMSNorm) else 0.0
            is_bias = isinstance(owner, LayerNorm) and place.new is owner.bias
            return self._stream.final_factor, 0.0 if is_bias else offset
        if place.attention is None:
            return 1.0 / self._weight_of_experts(place), 0.0
        before, after = place.attention
        factor = before.logits_scale / after.logits_scale
        if self._repeats_d_kv(after):
            factor *= before.heads.d_kv / after.heads.d_kv
        members = ("query", "query_bias") if after.query_norm is None else ("query_norm",)
        offset = after.query_norm.scale_offset if isinstance(after.query_norm, RMSNorm) else 0.0
        return (factor, offset) if place.member in members else (1.0, 0.0)

    def _weight_of_experts(self, place: _Place) -> float:
        """Returns the sum of a gate's weights for equal logits if experts copy a layer, else 1."""
        layer, is_output, _ = place.path.rpartition("/experts/wo/")
        if not is_output or not _LEVELS.isdisjoint(place.old.shape.dimension_names):
            return 1.0
        weight = 1.0
        for path, router in self._new_modules.items():
            if path.startswith(layer) and isinstance(router, Router):
                group, slots = mtf.Dimension("group_size", 1), mtf.Dimension("expert_capacity", 1)
                logits = mtf.zeros(router.kernel.mesh, [group, router.experts])
                choices = router.gate(logits, GateContext(group, router.experts, slots)).choices
                weight *= float(sum(mtf.to_numpy(choice.gate).sum() for choice in choices))
        return weight


def _owner(modules: Mapping[str, mtf.Module], path: str) -> mtf.Module | None:
    """Returns the module of the variable at a path."""
    return modules.get(path.rpartition("/")[0])


_MIXTURE_NOTE = (
    "a mixture of equal experts is the layer where the weights of its gate have the same sum for "
    "all tokens (with Switch nearly), and no token is dropped (CAPACITY_FACTOR, "
    "EVAL_CAPACITY_FACTOR)"
)


def _without_split(name: str) -> str:
    return name.removesuffix(_UNSPLIT)
