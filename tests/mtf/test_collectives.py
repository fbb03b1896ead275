"""The collectives of operations and their gradients.

DTensor does not report a collective that it adds unnecessarily; it is only slow.
"""

from __future__ import annotations

import collections
import pathlib

import pytest

from tests.collectives import collectives_of
from tests.mtf.test_ops_under_layouts import CASES

Collectives = dict[str, list[tuple[str, list[str], list[str]]]]

# On a 2 x 2 mesh under the first layout of the case: how many all-gathers and all-to-alls forward
# and backward together may have, and why. All other operations have none.
ALONG_IT = "it works along a split dimension, which must be gathered"
ALLOWED = {
    "slicewise": (2, "tf_fn needs the whole dimension: forward and backward"),
    "cumsum": (4, f"{ALONG_IT}: two sums, forward and backward"),
    "argmax": (2, f"{ALONG_IT}: two of them"),
    "top_1": (2, "as argmax; the values are a maximum, an all-reduce"),
    "top_k": (1, f"{ALONG_IT}; the gradient is a contraction"),
    "nth_elements": (1, "as top_k"),
    "sample_with_temperature": (2, "as argmax"),
    "reshape_that_splits": (1, "the gradient is merged from a dimension that is split inside"),
    "reshape_that_merges": (1, "the gradient is split into dimensions without a rule"),
    "replace_dimensions": (1, "a split dimension disappears"),
    "reshape_that_moves_an_axis": (2, "one all-to-all forward, one backward: its purpose"),
    "reshape_that_moves_an_axis_between_later_dimensions": (
        2,
        "DTensor's all-to-all is wrong there: one gather forward, one backward",
    ),
    "reshape_that_splits_beside_a_dimension_that_loses_its_axis": (
        2,
        "an axis moves: forward and backward",
    ),
    "rename_dimension": (1, "the new name has no rule"),
    "rename_to_a_split_dimension": (1, "the gradient's name has no rule"),
    "anonymize": (1, "its purpose"),
    "concat": (6, f"{ALONG_IT}: two operands and a gradient, for two dimensions"),
    "split_of_a_split_dimension": (3, f"{ALONG_IT}: the operand and two gradients"),
    "stack_into_a_split_dimension": (1, "the gradient is sliced along the new dimension"),
    "unstack": (1, ALONG_IT),
    "slice": (2, f"{ALONG_IT}: forward and backward"),
    "pad": (2, f"{ALONG_IT}: forward and backward"),
    "reduce_first": (1, ALONG_IT),
    "shift": (4, "the edges of the parts, forward and backward, in two calls"),
    "conv2d_with_blocks": (4, "the edges of the blocks on both sides, forward and backward"),
    "conv3d_with_blocks": (4, "the edges of the blocks on both sides, forward and backward"),
    "conv2d_transpose_with_blocks": (2, "an edge of the blocks, forward and backward"),
    "conv3d_transpose_with_blocks": (2, "an edge of the blocks, forward and backward"),
    "depthwise_conv2d_with_blocks": (
        4,
        "the edges of the blocks on both sides, forward and backward",
    ),
    "max_pool2d_with_blocks": (4, "the edges of the blocks on both sides, forward and backward"),
    "dynamic_shift_along_a_split_dimension": (1, ALONG_IT),
    "halo_exchange": (10, "the edges of the blocks, forward and backward, in three calls"),
}


# Free dimensions remain split; only gradients of operands without the batch are summed.
EXPECTED: dict[str, dict[tuple[str, str, str], int]] = {
    "matmul": {("all-reduce", "model", "b"): 1, ("all-reduce", "data", "a"): 1},
    "einsum_of_one": {("all-reduce", "model", "b"): 1},
    "same_shapes": {},
    "one_hot": {},
    "dropout": {},
    "transpose": {},
    "reshape_that_moves_an_axis": {("all-to-all", "data", "a"): 1, ("all-to-all", "data", "e"): 1},
    "custom_gradient": {("all-reduce", "data", "a"): 1},
    # The table stays where it is: over its axis the looked up entries are summed, not the gradient.
    "gather_from_a_table": {("all-reduce", "data,model", "a,b"): 1},
    "gather_along_a_later_dimension": {
        ("all-reduce", "model", "v"): 1,
        ("all-reduce", "data", "a"): 1,
    },
    "gather_with_a_permuted_output": {
        ("all-reduce", "model", "v"): 1,
        ("all-reduce", "data", "a"): 1,
    },
}
QUICK = [
    *("matmul", "dropout", "slice", "reshape_that_moves_an_axis", "gather_along_a_later_dimension")
]
WORKER = "tests.mtf.collectives_worker"


def _gathers(collectives: Collectives) -> dict[str, int]:
    return {
        name: sum(kind not in ("all-reduce", "reduce-scatter") for kind, _, _ in items)
        for name, items in collectives.items()
    }


def test_every_allowed_case_exists() -> None:
    assert ALLOWED.keys() <= CASES.keys()


def _assert_allowed(collectives: Collectives) -> None:
    gathers = _gathers(collectives)
    assert not {name: n for name, n in gathers.items() if n > ALLOWED.get(name, (0, ""))[0]}
    assert not {name for name, n in gathers.items() if name in ALLOWED and not n}, "not needed"


@pytest.mark.slow
def test_no_allowed_operation_gathers_more_than_it_must(tmp_path: pathlib.Path) -> None:
    _assert_allowed(collectives_of(WORKER, tmp_path, ALLOWED))


@pytest.mark.slow
def test_no_other_operation_gathers(tmp_path: pathlib.Path) -> None:
    others = [name for name in CASES if name not in ALLOWED]
    gathers = _gathers(collectives_of(WORKER, tmp_path, others))
    assert gathers == dict.fromkeys(others, 0)


def _assert_expected(collectives: Collectives) -> None:
    counts = {
        name: collections.Counter(
            (kind, ",".join(axes), ",".join(dimensions)) for kind, axes, dimensions in items
        )
        for name, items in collectives.items()
        if name in EXPECTED
    }
    assert counts == {name: EXPECTED[name] for name in counts}


def test_common_operations_gather_and_reduce_what_they_must(tmp_path: pathlib.Path) -> None:
    collectives = collectives_of(WORKER, tmp_path, QUICK)
    _assert_allowed(collectives)
    _assert_expected(collectives)


@pytest.mark.slow
def test_all_collectives_are_those_that_the_mathematics_needs(tmp_path: pathlib.Path) -> None:
    _assert_expected(collectives_of(WORKER, tmp_path, EXPECTED))
