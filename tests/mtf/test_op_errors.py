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
        (lambda: mtf.top_k(X, "b:6", "k:7"), "the 7 entries of 'k' from the 6 of 'b': ask"),
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
        (lambda: mtf.replace_dimensions(X, "a:4", ["y:2", "z:3"]), "of 24 entries cannot be resh"),
        (lambda: mtf.einsum([X, Y], "a:5"), "einsum output .* has a new dimension a:5 .*: add"),
        (lambda: mtf.matmul(X, Y, "a:4;d:2"), "einsum output .* has a new dimension d:2 .*: add"),
        (
            lambda: mtf.conv2d(mtf.ones(MESH, "h:4;w:4;c:3"), mtf.ones(MESH, "k:3;l:3;d:3;o:2")),
            "x .* has the channels c:3, but the filter .* takes d:3: rename one",
        ),
        (lambda: _loop(lambda x: [mtf.reduce_sum(x)]), "changes a variable of .* to Shape"),
        (lambda: _loop(lambda x: [x, x]), "returns 2 values for 1 variables: sums over the rounds"),
    ],
)
def test_a_mistake_is_an_error_in_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(mtf.ShapeError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


Z = mtf.Dimension("z", 3)
KEY = mtf.random_key(0)
ONE = mtf.constant(MESH, 1, dtype=tf.int32)

ALONG_NO_DIMENSION: dict[str, Callable[[], object]] = {
    "softmax": lambda: mtf.softmax(X, Z),
    "log_softmax": lambda: mtf.log_softmax(X, Z),
    "reduce_logsumexp": lambda: mtf.reduce_logsumexp(X, Z),
    "reduce_mean": lambda: mtf.reduce_mean(X, reduced_dim=Z),
    "reduce_max_to": lambda: mtf.reduce_max(X, output_shape=[Z]),
    "reduce_first": lambda: mtf.reduce_first(X, Z),
    "cumsum": lambda: mtf.cumsum(X, Z),
    "top_k": lambda: mtf.top_k(X, Z, "k:2"),
    "top_1": lambda: mtf.top_1(X, Z),
    "argmax": lambda: mtf.argmax(X, Z),
    "nth_largest_element": lambda: mtf.nth_largest_element(X, 1, Z),
    "nth_smallest_element": lambda: mtf.nth_smallest_element(X, 1, Z),
    "sample_with_temperature": lambda: mtf.sample_with_temperature(X, Z, 0.5, key=KEY),
    "einsum": lambda: mtf.einsum([X, Y], reduced_dims=[Z]),
    "split": lambda: mtf.split(X, Z, 3),
    "unstack": lambda: mtf.unstack(X, Z),
    "shift": lambda: mtf.shift(X, 1, Z, False),
    "dynamic_shift": lambda: mtf.dynamic_shift(X, ONE, Z, False),
    "halo_exchange": lambda: mtf.halo_exchange(X, mtf.Dimension("a", 4), Z, 1),
    "left_halo_exchange": lambda: mtf.left_halo_exchange(X, mtf.Dimension("a", 4), Z, 1),
    "pool_tensor_1d": lambda: mtf.pool_tensor_1d(X, Z),
    "stride_tensor_1d": lambda: mtf.stride_tensor_1d(X, Z),
    "gather": lambda: mtf.gather(X, IDS, Z),
    "replace_dimensions": lambda: mtf.replace_dimensions(X, Z, "y:3"),
    "dropout": lambda: mtf.dropout(X, True, rate=0.5, noise_shape=[Z], key=KEY),
    "sparse_cross_entropy": lambda: mtf.sparse_cross_entropy(X, IDS, Z),
    "batch_normalize": lambda: mtf.batch_normalize(X, mtf.ones(MESH, [Z]), mtf.ones(MESH, [Z])),
}


@pytest.mark.parametrize("name", ALONG_NO_DIMENSION)
def test_an_unknown_dimension_is_an_error_with_the_known_ones(name: str) -> None:
    with pytest.raises(mtf.ShapeError, match=r"^no dimension z:3 in Shape\([^\n]*\)$"):
        ALONG_NO_DIMENSION[name]()


@pytest.mark.parametrize(
    "call",
    [
        lambda: mtf.slice(X, 0, 1, "aa"),
        lambda: mtf.pad(X, [1, 0], "aa"),
        lambda: mtf.concat([X, X], "aa"),
        lambda: mtf.rename_dimension(X, "aa", "z"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_most_similar_one(call: Callable[[], object]) -> None:
    with pytest.raises(mtf.ShapeError, match=r"^no dimension 'aa' in .*, did you mean 'a'\?$"):
        call()


OTHER_A = mtf.ones(MESH, "a:5")
TWICE: dict[str, Callable[[], object]] = {
    "shape": lambda: mtf.Shape(["a:4", "a:4"]),
    "sum_of_shapes": lambda: X.shape + "a:4",
    "text": lambda: mtf.convert_to_shape("a:4;a:5"),
    "zeros": lambda: mtf.zeros(MESH, "a:4;a:4"),
    "variable": lambda: mtf.Variable(MESH, "a:4;a:4"),
    "random_normal": lambda: mtf.random_normal(MESH, "a:4;a:4", key=KEY),
    "import_tf_tensor": lambda: mtf.import_tf_tensor(MESH, [[0.0]], "a:1;a:1"),
    "reshape": lambda: mtf.reshape(X, "a:4;a:6"),
    "broadcast": lambda: mtf.broadcast(X, "a:4;b:6;a:4"),
    "rename_dimension": lambda: mtf.rename_dimension(X, "b", "a"),
    "replace_dimensions": lambda: mtf.replace_dimensions(X, "b:6", ["c:3", "a:2"]),
    "stack": lambda: mtf.stack([X, X], "a"),
    "one_hot": lambda: mtf.one_hot(mtf.zeros(MESH, "a:4", tf.int32), "a:9"),
    "top_k": lambda: mtf.top_k(X, "b:6", "a:2"),
    "gather": lambda: mtf.gather(X, mtf.zeros(MESH, "a:5", tf.int32), "b:6"),
    "add": lambda: mtf.add(X, OTHER_A),
    "add_n": lambda: mtf.add_n([X, OTHER_A]),
    "where": lambda: mtf.where(mtf.greater(X, 0.0), OTHER_A, 0.0),
    "einsum": lambda: mtf.einsum([X, OTHER_A], "b:6"),
    "einsum_output": lambda: mtf.einsum([X, Y], "a:4;a:4"),
    "conv1d": lambda: mtf.conv1d(mtf.ones(MESH, "a:4;c:3"), mtf.ones(MESH, "k:3;c:3;a:2")),
}


@pytest.mark.parametrize("name", TWICE)
def test_a_dimension_that_would_occur_twice_is_an_error_with_the_remedy(name: str) -> None:
    with pytest.raises(
        mtf.ShapeError, match=r"^dimension 'a' occurs twice in Shape\([^\n]*\): rename one of them"
    ):
        TWICE[name]()


# One splits b in four, the other a and b over the same axis.
FOUR = mtf.Mesh("data:4,model:1", "b:data")
SHARED = mtf.Mesh("data:2,model:2", "a:data;b:data")
FOUR_X = mtf.ones(FOUR, "b:8;c:6")

INDIVISIBLE: dict[str, Callable[[], object]] = {
    "zeros": lambda: mtf.zeros(FOUR, "b:6"),
    "constant": lambda: mtf.constant(FOUR, 1.0, "b:6"),
    "range": lambda: mtf.range(FOUR, "b:6"),
    "random_uniform": lambda: mtf.random_uniform(FOUR, "b:6", key=KEY),
    "random_normal": lambda: mtf.random_normal(FOUR, "b:6", key=KEY),
    "variable": lambda: mtf.Variable(FOUR, "b:6"),
    "import_tf_tensor": lambda: mtf.import_tf_tensor(FOUR, [0.0] * 6, "b:6"),
    "rename_dimension": lambda: mtf.rename_dimension(mtf.ones(FOUR, "c:6"), "c", "b"),
    "reshape": lambda: mtf.reshape(mtf.ones(FOUR, "a:2;c:3"), "b:6"),
    "broadcast": lambda: mtf.broadcast(mtf.ones(FOUR, "a:4"), "a:4;b:6"),
    "one_hot": lambda: mtf.one_hot(mtf.zeros(FOUR, "n:3", tf.int32), "b:6"),
    "stack": lambda: mtf.stack([mtf.ones(FOUR, "a:2")] * 6, "b"),
    "slice": lambda: mtf.slice(FOUR_X, 0, 6, "b"),
    "split": lambda: mtf.split(FOUR_X, "b:8", [6, 2]),
    "concat": lambda: mtf.concat([FOUR_X, mtf.ones(FOUR, "b:6;c:6")], "b"),
    "top_k": lambda: mtf.top_k(mtf.ones(FOUR, "a:8"), "a:8", "b:6"),
    "gather": lambda: mtf.gather(FOUR_X, mtf.zeros(FOUR, "b:6", tf.int32), "c:6"),
    "conv1d": lambda: mtf.conv1d(mtf.ones(FOUR, "a:4;c:3"), mtf.ones(FOUR, "k:3;c:3;b:6")),
}


@pytest.mark.parametrize("name", INDIVISIBLE)
def test_a_dimension_that_an_axis_does_not_divide_is_an_error_with_sizes_that_fit(
    name: str,
) -> None:
    with pytest.raises(
        mtf.LayoutError,
        match=r"^dimension b:6 of [^\n]* cannot be split over mesh axis data:4: make its size 4 or "
        r"8, or change the mesh or the rule$",
    ):
        INDIVISIBLE[name]()


ON_ONE_AXIS: dict[str, Callable[[], object]] = {
    "zeros": lambda: mtf.zeros(SHARED, "a:4;b:4"),
    "random_uniform": lambda: mtf.random_uniform(SHARED, "a:4;b:4", key=KEY),
    "variable": lambda: mtf.Variable(SHARED, "a:4;b:4"),
    "import_tf_tensor": lambda: mtf.import_tf_tensor(SHARED, [[0.0] * 4] * 4, "a:4;b:4"),
    "add": lambda: mtf.ones(SHARED, "a:4") + mtf.ones(SHARED, "b:4"),
    "add_n": lambda: mtf.add_n([mtf.ones(SHARED, "a:4"), mtf.ones(SHARED, "b:4")]),
    "where": lambda: mtf.where(mtf.zeros(SHARED, "a:4", tf.bool), mtf.ones(SHARED, "b:4"), 0.0),
    "einsum": lambda: mtf.einsum(
        [mtf.ones(SHARED, "a:4;c:4"), mtf.ones(SHARED, "b:4;c:4")], "a:4;b:4"
    ),
    "broadcast": lambda: mtf.broadcast(mtf.ones(SHARED, "a:4"), "a:4;b:4"),
    "reshape": lambda: mtf.reshape(mtf.ones(SHARED, "c:16"), "a:4;b:4"),
    "rename_dimension": lambda: mtf.rename_dimension(mtf.ones(SHARED, "a:4;c:4"), "c", "b"),
    "one_hot": lambda: mtf.one_hot(mtf.zeros(SHARED, "a:4", tf.int32), "b:4"),
    "stack": lambda: mtf.stack([mtf.ones(SHARED, "a:4")] * 4, "b"),
    "top_k": lambda: mtf.top_k(mtf.ones(SHARED, "a:4;c:4"), "c:4", "b:4"),
    "gather": lambda: mtf.gather(
        mtf.ones(SHARED, "a:4;c:4"), mtf.zeros(SHARED, "b:4", tf.int32), "c:4"
    ),
    "conv1d": lambda: mtf.conv1d(mtf.ones(SHARED, "a:4;l:4;c:3"), mtf.ones(SHARED, "k:3;c:3;b:4")),
}


@pytest.mark.parametrize("name", ON_ONE_AXIS)
def test_two_dimensions_on_one_axis_are_an_error_with_the_remedy(name: str) -> None:
    with pytest.raises(
        mtf.LayoutError,
        match=r"^dimensions '[ab]' and '[ab]' of [^\n]* are both on mesh axis 'data': drop one of "
        r"the rules or rename a dimension$",
    ):
        ON_ONE_AXIS[name]()


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
