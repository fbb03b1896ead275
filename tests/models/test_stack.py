"""The stack of sublayers: names, order and rematerialisation."""

from __future__ import annotations

import pytest

from mtfrun import layers, mtf
from mtfrun.models.transformer import FeedForward, SelfAttention, Stack
from tests.layouts import ONE_DEVICE

WIDTH = mtf.Dimension("d_model", 8)


def test_a_class_that_is_listed_twice_gets_numbers() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = Stack(mesh, WIDTH, num_layers=1, layers=[FeedForward, SelfAttention, FeedForward])
    assert list(stack.blocks[0]) == ["feed_forward_0", "self_attention", "feed_forward_1"]


def test_the_norm_is_a_class_that_is_handed_over() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    stack = Stack(mesh, WIDTH, num_layers=1, norm=layers.LayerNorm)
    paths = stack.named_variables()
    assert "blocks/0/self_attention/norm/bias" in paths
    assert "final_norm/bias" in paths


@pytest.mark.parametrize("options", [{"num_layers": 0}, {"layers": []}])
def test_a_stack_of_nothing_is_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="at least one block and one layer class"):
        Stack(mtf.Mesh(ONE_DEVICE), WIDTH, **options)
