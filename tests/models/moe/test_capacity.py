"""Groups and slots."""

from __future__ import annotations

import pytest

from mtfrun.models.moe import Capacity, num_groups


@pytest.mark.parametrize(
    "tokens, group_size, groups", [(4096, 1024, 4), (18, 8, 2), (20, 8, 2), (21, 8, 3), (5, 8, 1)]
)
def test_groups_are_of_equal_size(tokens: int, group_size: int, groups: int) -> None:
    assert num_groups(tokens, group_size) == groups


def test_slots_differ_between_training_evaluation_and_the_second_level() -> None:
    capacity = Capacity(training=1.25, evaluation=2.0, second_level=1.0)
    assert capacity.first_level(64, 8, training=True) == 10
    assert capacity.first_level(64, 8, training=False) == 16
    assert capacity.of_second_level(64, 8) == 8


def test_slots_are_at_most_the_group_and_at_least_the_minimum() -> None:
    assert Capacity(training=8.0).first_level(6, 2, training=True) == 6
    assert Capacity(min_expert_capacity=4).first_level(8, 8, training=True) == 4


def test_no_slot_is_an_error_with_a_remedy() -> None:
    with pytest.raises(ValueError, match=r"training=1\.25 leaves no slot in 16 .*\.min_expert_cap"):
        Capacity().first_level(8, 16, training=True)
    with pytest.raises(ValueError, match=r"Capacity\.evaluation is 0: it must be more than 0"):
        Capacity(evaluation=0)


def test_groups_without_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Capacity\.group_size is 0: it must be more than 0"):
        Capacity(group_size=0)
