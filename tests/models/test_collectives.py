"""What devices send each other for mixtures of experts, residual blocks and attention."""

from __future__ import annotations

import collections
import math

import pytest

from tests.collectives import collectives_of

Programs = dict[str, list[tuple[str, list[str], list[int]]]]
Counts = dict[tuple[str, str], int]


# To the experts and back, forward and backward.
ONE_LEVEL: Counts = {("all-to-all", "data"): 4}
MIXTURES: dict[str, Counts] = {
    # The gradient of the router is summed.
    "one level": ONE_LEVEL | {("all-reduce", "data"): 1},
    # What the parts of a hidden layer add up to, and their share of the gradient of its input.
    "one level, split hidden layer": ONE_LEVEL
    | {("all-reduce", "data"): 1, ("all-reduce", "model"): 2},
    # The experts are whole along the axis of the outer batch: their gradients are summed over it.
    "one level, outer batch": ONE_LEVEL
    | {("all-reduce", "model"): 2, ("all-reduce", "data,model"): 1},
    # The same over both axes, and once the importances of the second level's tokens. The gradients
    # of both routers are summed.
    "two levels": {
        ("all-to-all", "data"): 5,
        ("all-to-all", "model"): 4,
        ("all-reduce", "data,model"): 1,
        ("all-reduce", "model"): 1,
    },
}


# A round of the loop, forward, and in the backward pass forward again and backward.
DROPLESS = {
    ("all-to-all", "data", (4, 2, 30, 6)): 6,
    # The router's logits of all tokens, and the gradients of the weights of both choices.
    ("all-gather", "data", (96, 4)): 1,
    ("all-gather", "data", (2, 48)): 2,
    # The tokens of the fullest expert, and the gradient of the router.
    ("all-reduce", "data", ()): 1,
    ("all-reduce", "data", (6, 4)): 1,
}

EDGES = ("all-gather", "model", "2,8,1,4,4")
BLOCKS = {
    # Two convolutions. Forward, their inputs are gathered: every device makes its part of the
    # filters. Backward, the gradients of their results are gathered and the filters of the
    # convolutions split by input, so that every device makes its part of the input's gradient.
    "filters, the same width": {
        ("all-gather", "model", "8,4,4,4"): 2 + 2,
        ("all-to-all", "model", "9,4,4"): 2,
    },
    # The first convolution and the shortcut read the same input, which is gathered once.
    "filters, twice the width": {
        ("all-gather", "model", "8,4,4,4"): 1,
        ("all-gather", "model", "8,2,2,8"): 1 + 3,
        ("all-to-all", "model", "9,4,8"): 1,
        ("all-to-all", "model", "9,8,8"): 1,
        ("all-to-all", "model", "1,4,8"): 1,
    },
    # The edges above and below, of two convolutions, forward and backward: one row each.
    "row_blocks, the same width": {EDGES: 2 * 2 * 2},
}


ATTENTION = ("attention at once", "attention in blocks")
# Of attention to 4 rows of 16 positions, 4 heads of size 4.
LENGTH, KEYS = 16, 4 * 16 * 4 * 4

WORKER = "tests.models.collectives_worker"


@pytest.fixture(scope="module")
def programs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The collectives, on 2 x 2 devices, of the cases whose tests run."""
    texts = [item.nodeid for item in request.session.items]
    cases = [
        case for case in (*MIXTURES, *BLOCKS, *ATTENTION) if any(f"[{case}]" in t for t in texts)
    ]
    cases += ["U-Net"] * any("u_net" in text for text in texts)
    cases += ["dropless"] * any("move_in_rounds" in text for text in texts)
    return collectives_of(WORKER, tmp_path_factory.mktemp("programs"), cases)


@pytest.mark.slow
@pytest.mark.parametrize("case", MIXTURES)
def test_tokens_move_by_all_to_alls_alone(programs: Programs, case: str) -> None:
    collectives = programs[case]
    counts = collections.Counter((kind, ",".join(axes)) for kind, axes, _ in collectives)
    assert counts == MIXTURES[case]


@pytest.mark.slow
def test_without_a_capacity_tokens_move_in_rounds(programs: Programs) -> None:
    moved = collections.Counter(
        (kind, ",".join(axes), tuple(sizes)) for kind, axes, sizes in programs["dropless"]
    )
    assert moved == DROPLESS


@pytest.mark.slow
@pytest.mark.parametrize("case", BLOCKS)
def test_a_block_moves_each_convolutions_input_and_gradient_once(
    programs: Programs, case: str
) -> None:
    moved = collections.Counter(
        (kind, ",".join(axes), ",".join(map(str, sizes)))
        for kind, axes, sizes in programs[case]
        if kind != "all-reduce"
    )
    assert moved == BLOCKS[case]


@pytest.mark.slow
@pytest.mark.parametrize("case", BLOCKS)
def test_sums_over_devices_are_those_of_statistics_and_filters(
    programs: Programs, case: str
) -> None:
    """Nothing as large as a image is summed, and nothing over the axis of the filters."""
    axes_of_sums = {tuple(axes) for kind, axes, _ in programs[case] if kind == "all-reduce"}
    assert axes_of_sums == {("data", "model") if case.startswith("row_blocks") else ("data",)}
    sizes = [math.prod(sizes) for kind, _, sizes in programs[case] if kind == "all-reduce"]
    assert max(sizes) <= 9 * 8 * 8


@pytest.mark.slow
@pytest.mark.parametrize("case", ATTENTION)
def test_a_split_length_moves_by_all_to_alls_alone(programs: Programs, case: str) -> None:
    """Of queries, keys, values and the result, and of their gradients; no keys are gathered."""
    over_length = [c for c in programs[case] if c[1] == ["model"]]
    exchanged = [math.prod(sizes) for kind, _, sizes in over_length if kind == "all-to-all"]
    assert exchanged == [KEYS] * 8
    others = [math.prod(sizes) for kind, _, sizes in over_length if kind != "all-to-all"]
    assert max(others, default=0) <= LENGTH


@pytest.mark.slow
def test_a_u_net_of_split_images_moves_edges_and_gradients_of_filters(programs: Programs) -> None:
    gathered = [sizes for kind, _, sizes in programs["U-Net"] if kind == "all-gather"]
    # Of the four quarters of two images: a line of 8 pixels and its ends, at most 8 channels.
    assert gathered and max(map(math.prod, gathered)) <= 4 * 2 * (8 + 2) * 8
    summed = [sizes for kind, _, sizes in programs["U-Net"] if kind == "all-reduce"]
    assert max(map(math.prod, summed)) == 9 * 8 * 4
    assert len(gathered) + len(summed) == len(programs["U-Net"])
