"""The size of groups of tokens, and the slots that an expert has for a group."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.checks import INDEX, POSITIVE, check_fields
from mtfrun.errors import InputError


@dataclasses.dataclass(frozen=True)
class Capacity:
    """The tokens that compete with each other, and the slots of an expert for them.

    An expert has group_size * factor / num_experts slots: Lepikhin et al. 2020, arXiv:2006.16668,
    section 2.2; Fedus et al. 2021, arXiv:2101.03961, equation 3.

    Attributes:
      training, evaluation: the capacity factors; 1 gives a slot to one choice of every token.
      second_level: the factor of the second level of two.
      min_expert_capacity: the smallest number of slots, on every level.
      group_size: about the number of tokens in a group, on every level; see `num_groups`.
    """

    training: float = 1.25
    evaluation: float = 2.0
    second_level: float = 1.0
    min_expert_capacity: int = 0
    group_size: int = 1024

    def __post_init__(self) -> None:
        check_fields(self, POSITIVE, "training", "evaluation", "second_level", "group_size")
        check_fields(self, INDEX, "min_expert_capacity")

    def groups(self, mesh: mtf.Mesh, name: str, tokens: int) -> mtf.Dimension:
        """Returns the groups of `tokens`; a LayoutError if the mesh does not divide them."""
        groups = mtf.Dimension(name, num_groups(tokens, self.group_size))
        parts = mesh.num_splits(groups)
        if groups.size % parts:
            raise mtf.LayoutError(
                f"{tokens} tokens make {groups.size} group(s) of {tokens // groups.size}, which "
                f"mesh axis {mesh.axis_of(groups)}:{parts} does not divide: set "
                f"Capacity.group_size so that their number is a multiple of {parts}, for example "
                f"to {max(1, tokens // parts)}"
            )
        return groups

    def first_level(self, group_size: int, num_experts: int, *, training: bool) -> int:
        """Returns the slots of an expert for a group; an InputError if there are none."""
        return self._slots("training" if training else "evaluation", group_size, num_experts)

    def of_second_level(self, group_size: int, num_experts: int) -> int:
        return self._slots("second_level", group_size, num_experts)

    def _slots(self, name: str, group_size: int, num_experts: int) -> int:
        factor = getattr(self, name)
        slots = min(group_size, int(group_size * factor / num_experts))
        slots = max(slots, self.min_expert_capacity)
        if slots < 1:
            raise InputError(
                f"Capacity.{name}={factor} leaves no slot in {num_experts} experts for groups of "
                f"{group_size} tokens: set Capacity.min_expert_capacity to 1 or more, or a larger "
                "factor"
            )
        return slots


def num_groups(tokens: int, group_size: int) -> int:
    """Returns the number of equal groups of about `group_size` tokens.

    The least number from tokens // group_size on that divides the tokens. It does not depend on the
    mesh, and neither do the tokens that compete.

    Examples:
      >>> num_groups(4096, 1024), num_groups(18, 8), num_groups(5, 8)
      (4, 2, 1)
    """
    groups = max(1, tokens // group_size)
    while tokens % groups:
        groups += 1
    return groups
