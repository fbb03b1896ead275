"""The parameters that a token uses."""

from __future__ import annotations

import pytest

from mtfrun import layers, mtf
from mtfrun.models import moe
from tests.models.moe.mixtures import GATES, dropless, one_level, two_levels

# Of tokens of 6 and experts of 10 hidden units.
EXPERT = 6 * 10 + 10 * 6
# How many experts a token has; where experts choose, the capacity factor.
EXPERTS_PER_TOKEN = {
    "top_2": 2,
    "top_2_v1": 2,
    "truncated_top_2": 2,
    "switch": 1,
    "no_token_left_behind": 1,
    "batch_prioritized": 1,
    "expert_choice": 1.25,
    "top_n": 3,
    "top_k": 2,
    "top_k_sigmoid": 2,
    "top_2_random": 2,
    "switch_sampled": 1,
}


def _active(layer: layers.Layer) -> float:
    shares = layers.active_shares(layer)
    return sum(v.shape.size * shares.get(v, 1.0) for v in layer.named_variables().values())


@pytest.mark.parametrize("gate", GATES)
def test_of_the_experts_as_many_count_as_a_token_has(gate: str) -> None:
    router = 6 * 4
    layer = one_level(mtf.Mesh(), gate=GATES[gate])
    assert _active(layer) == router + EXPERTS_PER_TOKEN[gate] * EXPERT
    assert sum(v.shape.size for v in layer.named_variables().values()) == router + 4 * EXPERT


def test_without_a_capacity_it_is_the_same() -> None:
    assert _active(dropless(mtf.Mesh(), gate=moe.TopK(3))) == 6 * 4 + 3 * EXPERT


@pytest.mark.parametrize(("gate", "outer", "experts"), [("top_2", 2, 3), ("switch", 1, 1)])
def test_the_first_choice_of_two_levels_has_all_experts_of_its_gate_and_others_one(
    gate: str, outer: int, experts: int
) -> None:
    # 4 experts of the first level, each of them a router of its own for 2 experts.
    routers = 6 * 4 + outer * 6 * 2
    assert _active(two_levels(mtf.Mesh(), gate=GATES[gate])) == routers + experts * EXPERT


def test_a_gate_never_has_more_experts_than_there_are() -> None:
    assert moe.TopN(5).experts_per_token(4, 1.0) == 4
    assert moe.ExpertChoice().experts_per_token(4, 8.0) == 4
