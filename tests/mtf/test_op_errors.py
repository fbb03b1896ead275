"""Errors of operations: one line each, with the remedy."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tensorflow as tf

from mtfrun import mtf

MESH = mtf.Mesh()
X = mtf.ones(MESH, "a:4;b:6")
Y = mtf.ones(MESH, "b:6;c:2")
IDS = mtf.zeros(MESH, "n:3", tf.int32)


def _loop(body: Callable[..., list[mtf.Tensor]], **kwargs: bool) -> None:
    mtf.while_loop(lambda x: mtf.reduce_sum(x) < 99.0, body, [X], **kwargs)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mtf.einsum([X, Y], "a:4;d:2"), "einsum output .* has a new dimension d:2 .*: add"),
        (lambda: mtf.einsum([X, Y], reduced_dims=["d:2"]), "no dimension d:2 in"),
        (lambda: mtf.einsum([X, Y], "a:4", ["b:6"]), "give einsum output_shape or reduced_dims"),
        (lambda: mtf.einsum([]), "einsum needs at least one tensor"),
        (lambda: mtf.reduce_sum(X, reduced_dim="bb:6"), "no dimension bb:6 in .*did you mean 'b'"),
        (
            lambda: mtf.reduce_sum(X, reduced_dim="b:5"),
            "no dimension b:5 in .*: its 'b' has size 6",
        ),
        (lambda: mtf.reduce_sum(X, output_shape="c:2"), "no dimension c:2 in"),
        (lambda: mtf.reduce_sum(X, output_shape="a:4", reduced_dim="b:6"), "give output_shape or"),
        (lambda: mtf.reshape(X, "a:4;b:5"), "of 24 entries cannot .* of 20: the sizes must"),
        (lambda: mtf.transpose(X, "b:6;c:4"), "cannot be transposed to .*: the dimensions differ"),
        (lambda: mtf.rename_dimension(X, "a", "b"), "dimension 'b' occurs twice in"),
        (lambda: mtf.rename_dimension(X, "aa", "z"), "no dimension 'aa' in .*, did you mean 'a'"),
        (
            lambda: mtf.replace_dimensions(X, ["b:6", "a:4"], "z:24"),
            "are not neighbours in .*: tran",
        ),
        (lambda: mtf.broadcast(X, "a:4;c:2"), "dimension b:6 of .* is not in the output"),
        (lambda: mtf.concat([X, Y], "b"), "cannot be transposed to"),
        (lambda: mtf.concat([], "b"), "concat needs at least one tensor"),
        (lambda: mtf.stack([X, Y], "s"), "cannot be transposed to"),
        (lambda: mtf.stack([], "s"), "stack needs at least one tensor"),
        (lambda: mtf.split(X, "b:6", 4), "b:6 cannot be split into 4 equal parts"),
        (lambda: mtf.split(X, "b:6", [2, 3]), r"parts of \[2, 3\] do not make up b:6"),
        (lambda: mtf.slice(X, 4, 3, "b"), r"slice \[4, 7\) is outside of b:6"),
        (lambda: mtf.pad(X, [-1, 0], "b"), r"paddings must not be negative, got \(-1, 0\) for b"),
        (lambda: mtf.pool_tensor_1d(X, "b:6", pool_size=4), "windows of 4 do not divide b:6"),
        (lambda: mtf.top_k(X, "b:6", "k:7"), "top_k cannot take k:7 entries from b:6: ask"),
        (lambda: mtf.gather(X, IDS, "c:2"), "no dimension c:2 in"),
        (
            lambda: mtf.gather(X, mtf.zeros(MESH, "a:4", tf.int32), "a:4"),
            "gather along 'a': rename it in the indices",
        ),
        (lambda: mtf.dynamic_shift(X, IDS, mtf.Dimension("b", 6), False), "no dimension n:3 in"),
        (lambda: mtf.cwise(tf.add, [X, Y]), "cwise needs tensors of one shape, got"),
        (
            lambda: mtf.slicewise(tf.identity, [X, Y], splittable_dims=["a:4", "z:3"]),
            "splittable dimension z:3 is in none of ",
        ),
        (
            lambda: mtf.conv2d(mtf.ones(MESH, "h:4;w:4;c:3"), mtf.ones(MESH, "k:3;l:3;d:3;o:2")),
            "x .* has the channels c:3, but the filter .* takes d:3: rename one",
        ),
        (lambda: _loop(lambda x: [mtf.reduce_sum(x)]), "changes a variable of .* to Shape"),
        (
            lambda: _loop(lambda x: [x, x]),
            "body_fn returns 2 values for 1 variables: sums over the rounds",
        ),
    ],
)
def test_a_mistake_is_an_error_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(mtf.ShapeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


KEY = mtf.random_key(0)
OTHER_A = mtf.ones(MESH, "a:5")
# One splits b in four, the other a and b over the same axis.
FOUR = mtf.Mesh("data:4,model:1", "b:data")
SHARED = mtf.Mesh("data:2,model:2", "a:data;b:data")

# By the error's text: each way to a dimension, a shape or a layout.
CAUSES: dict[str, list[Callable[[], object]]] = {
    r"no dimension z:3 in Shape\([^\n]*\)$": [
        lambda: mtf.softmax(X, "z:3"),
        lambda: mtf.reduce_max(X, output_shape="z:3"),
        lambda: mtf.reduce_first(X, "z:3"),
        lambda: mtf.top_k(X, "z:3", "k:2"),
        lambda: mtf.unstack(X, "z:3"),
        lambda: mtf.shift(X, 1, "z:3", False),
        lambda: mtf.halo_exchange(X, "a:4", "z:3", 1),
        lambda: mtf.pool_tensor_1d(X, "z:3"),
        lambda: mtf.replace_dimensions(X, "z:3", "y:3"),
        lambda: mtf.dropout(X, True, rate=0.5, noise_shape="z:3", key=KEY),
        lambda: mtf.sparse_cross_entropy(X, IDS, "z:3"),
        lambda: mtf.batch_normalize(X, mtf.ones(MESH, "z:3"), mtf.ones(MESH, "z:3")),
    ],
    "dimension 'a' occurs twice in .*: rename one of them": [
        lambda: mtf.convert_to_shape("a:4;a:5"),
        lambda: mtf.replace_dimensions(X, "b:6", ["c:3", "a:2"]),
        lambda: mtf.stack([X, X], "a"),
        lambda: mtf.one_hot(mtf.zeros(MESH, "a:4", tf.int32), "a:9"),
        lambda: mtf.top_k(X, "b:6", "a:2"),
        lambda: mtf.gather(X, mtf.zeros(MESH, "a:5", tf.int32), "b:6"),
        lambda: mtf.einsum([X, OTHER_A], "b:6"),
    ],
    "dimension b:6 of .* over mesh axis data:4: make its size 4 or 8, or change": [
        lambda: mtf.zeros(FOUR, "b:6"),
        lambda: mtf.Variable(FOUR, "b:6"),
        lambda: mtf.rename_dimension(mtf.ones(FOUR, "c:6"), "c", "b"),
        lambda: mtf.reshape(mtf.ones(FOUR, "a:2;c:3"), "b:6"),
        lambda: mtf.one_hot(mtf.zeros(FOUR, "n:3", tf.int32), "b:6"),
        lambda: mtf.slice(mtf.ones(FOUR, "b:8;c:6"), 0, 6, "b"),
    ],
    "dimensions '[ab]' and '[ab]' of .* are both on mesh axis 'data': drop one": [
        lambda: mtf.import_tf_tensor(SHARED, [[0.0] * 4] * 4, "a:4;b:4"),
        lambda: mtf.ones(SHARED, "a:4") + mtf.ones(SHARED, "b:4"),
        lambda: mtf.einsum([mtf.ones(SHARED, "a:4;c:4"), mtf.ones(SHARED, "b:4;c:4")], "a:4;b:4"),
        lambda: mtf.top_k(mtf.ones(SHARED, "a:4;c:4"), "c:4", "b:4"),
    ],
}


@pytest.mark.parametrize(
    ("call", "message"), [(call, text) for text, calls in CAUSES.items() for call in calls]
)
def test_every_way_to_a_wrong_shape_is_an_error_in_one_line(
    call: Callable[[], object], message: str
) -> None:
    with pytest.raises((mtf.ShapeError, mtf.LayoutError), match=f"^{message}") as error:
        call()
    assert "\n" not in str(error.value)


def test_add_n_and_reduction_names_are_checked_too() -> None:
    with pytest.raises(ValueError, match="add_n needs at least one tensor"):
        mtf.add_n([])
    with pytest.raises(ValueError, match="no reduction 'AVG': there are SUM, MAX, MIN"):
        mtf.reduction_fn("AVG")


def test_reductions_have_mesh_tensorflows_names() -> None:
    assert mtf.reduction_fn("SUM") is mtf.reduce_sum
    assert mtf.reduction_fn("MIN") is mtf.reduce_min
    assert mtf.binary_reduction_fn("MAX") is mtf.maximum


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"activation": "float31"}, "activation='float31' is not a float type: 'float32'"),
        ({"master": "int32"}, "master='int32' is not a float type"),
    ],
)
def test_a_dtype_policy_takes_float_types_only(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mtf.DTypePolicy(**arguments)
    assert mtf.DTypePolicy(activation="bfloat16").activation == tf.bfloat16
