"""The table of the routing of mixtures of experts."""

from __future__ import annotations

from mtfrun.cli.commands.eval import routing_table

VALUES = {
    "loss": 2.0,
    "blocks/0/moe/level_1/load/0": 0.75,
    "blocks/0/moe/level_1/load/1": 0.25,
    "blocks/0/moe/level_1/dropped": 0.125,
    "blocks/0/moe/level_1/entropy": 0.5,
    "blocks/0/moe/level_1/balance_loss": 1.25,
    "blocks/0/moe/experts_per_token/0": 0.25,
    "blocks/0/moe/experts_per_token/1": 0.75,
}


def test_a_level_has_a_line_and_a_layer_one_for_the_experts_a_token() -> None:
    heading, row, per_token = routing_table(VALUES)
    assert heading.split()[:5] == ["layer", "level", "experts", "busiest", "idlest"]
    assert row.split() == ["blocks/0/moe", "1", "2", "1.50", "0.50", "12.5%", "0.500", "1.250"]
    assert per_token == "experts per token, blocks/0/moe  0: 25.0%  1 or more: 75.0%"


def test_a_model_without_mixtures_has_no_table() -> None:
    assert routing_table({"loss": 2.0}) == []
