"""How a mixture of experts of two levels cuts tokens into groups."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf
from mtfrun.models.moe.capacity import Capacity, check_groups, num_groups

# The outer batch of a batch without one: of one part, and no layout rule splits it.
NO_OUTER_BATCH = mtf.Dimension("outer_batch_unsplit", 1)


class Sizes(NamedTuple):
    """How tokens are cut into groups on both levels.

    Args:
      groups_x, group_x, capacity_x: groups for each outer batch, their tokens, slots of an expert.
      groups_y, group_y, capacity_y: the same of the second level, over all outer batches.
    """

    groups_x: mtf.Dimension
    group_x: mtf.Dimension
    capacity_x: mtf.Dimension
    groups_y: mtf.Dimension
    group_y: mtf.Dimension
    capacity_y: mtf.Dimension


def sizes_of_rows(
    mesh: mtf.Mesh,
    capacity: Capacity,
    group_size: int,
    num_experts: tuple[int, int],
    rows: tuple[mtf.Dimension, mtf.Dimension, mtf.Dimension],
    *,
    training: bool,
) -> Sizes:
    """Returns the sizes for whole sequences.

    Args:
      mesh: what must divide the groups.
      capacity: of experts on both levels.
      group_size: about so many tokens are a group, on both levels.
      num_experts: (expert_x, expert_y).
      rows: the dimensions (outer_batch, batch, length) of the tokens.
      training: whether the capacity is that of training.

    Raises:
      LayoutError: the mesh does not divide the groups of a level.
    """
    outer_batch, batch, length = rows
    experts_x, experts_y = num_experts
    tokens = batch.size * length.size
    groups_x = mtf.Dimension(batch.name, num_groups(tokens, group_size))
    check_groups(mesh, groups_x, tokens, "MoE2D.group_size")
    group_x = tokens // groups_x.size
    capacity_x = capacity.first_level(group_x, experts_x, training=training)
    arrived = outer_batch.size * groups_x.size * capacity_x
    groups_y = mtf.Dimension(_outer_name(outer_batch), num_groups(arrived, group_size))
    check_groups(mesh, groups_y, arrived, "MoE2D.group_size")
    group_y = arrived // groups_y.size
    capacity_y = capacity.of_second_level(group_y, experts_y)
    return _sizes(groups_x, group_x, capacity_x, groups_y, group_y, capacity_y)


def sizes_of_step(tokens: mtf.Dimension) -> Sizes:
    """Returns the sizes while decoding, without an outer batch: a token is a group with all the
    room."""
    groups_y = mtf.Dimension(_outer_name(NO_OUTER_BATCH), tokens.size)
    return _sizes(tokens, 1, 1, groups_y, 1, 1)


def _sizes(
    groups_x: mtf.Dimension,
    group_x: int,
    capacity_x: int,
    groups_y: mtf.Dimension,
    group_y: int,
    capacity_y: int,
) -> Sizes:
    return Sizes(
        groups_x,
        mtf.Dimension("group_size_x", group_x),
        mtf.Dimension("expert_capacity_x", capacity_x),
        groups_y,
        mtf.Dimension("group_size_y", group_y),
        mtf.Dimension("expert_capacity_y", capacity_y),
    )


def _outer_name(outer_batch: mtf.Dimension) -> str:
    """Returns the name of the second level's groups: they are split as the outer batch is."""
    return outer_batch.name.removesuffix("_unsplit")
