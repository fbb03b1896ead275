"""Calls of models written for Mesh TensorFlow: operations with names, conversions of None."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from tests.layouts import ONE_DEVICE

MESH = mtf.Mesh(ONE_DEVICE)
A, B, K = mtf.Dimension("a", 3), mtf.Dimension("b", 2), mtf.Dimension("k", 2)
VALUES = np.asarray([[0.5, 0.25], [2.0, 0.125], [1.0, 0.75]], np.float32)
X = mtf.import_tf_tensor(MESH, VALUES, [A, B])
TRUE = mtf.greater(X, 0.4)
KEY = mtf.random_key(0)
IMAGE = mtf.zeros(MESH, "batch:1;depth:2;rows:2;columns:2;channels:1")
VARIABLE = mtf.Variable(MESH, [A, B])
VARIABLE.initialize(0, "variable")

_OF_ONE_TENSOR = """
    identity sin cos square sqrt rsqrt log exp sigmoid tanh negative reciprocal relu leaky_relu sign
    to_float to_bfloat16 to_int32 reduce_sum reduce_mean reduce_max reduce_min
"""

# The positional and keyword arguments of a call of every operation that takes a name there.
CALLS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    **{name: ([X], {}) for name in _OF_ONE_TENSOR.split()},
    **{name: ([TRUE], {}) for name in ("logical_not", "reduce_all", "reduce_any")},
    **{
        name: ([X, X], {})
        for name in ("minimum", "maximum", "add", "sub", "multiply", "divide", "matmul")
    },
    **{
        name: ([X, A], {})
        for name in ("top_1", "argmax", "reduce_logsumexp", "log_softmax", "softmax", "unstack")
    },
    **{name: ([X, 1, A], {}) for name in ("nth_largest_element", "nth_smallest_element")},
    **{name: ([IMAGE], {}) for name in ("max_pool2d", "avg_pool2d", "max_pool3d", "avg_pool3d")},
    "assign": ([VARIABLE, X], {}),
    "cast": ([X, tf.int32], {}),
    "concat": ([[X, X], "a"], {}),
    "cwise": ([tf.sin, [X]], {}),
    "dropout": ([X, True], {"rate": 0.5, "key": KEY}),
    "einsum": ([[X, X]], {"output_shape": [A]}),
    "import_fully_replicated": ([MESH, VALUES, [A, B]], {}),
    "import_tf_tensor": ([MESH, VALUES], {"shape": [A, B]}),
    "one_hot": ([mtf.to_int32(X), K], {}),
    "pad": ([X, [1, 0], "a"], {}),
    "range": ([MESH, A], {}),
    "reshape": ([X, "c:6"], {}),
    "sample_with_temperature": ([X, A], {"key": KEY}),
    "shift": ([X, 1, A], {"wrap": False}),
    "slice": ([X, 0, 2, "a"], {}),
    "slicewise": ([tf.sin, [X]], {}),
    "split": ([X, A, 3], {}),
    "stack": ([[X, X], "c"], {}),
    "top_k": ([X, A, K], {}),
    "transpose": ([X, [B, A]], {}),
}


# Values of the positional arguments between those in CALLS and the name.
ALL_POSITIONS: dict[str, list[Any]] = {
    "cwise": [None, None],
    "dropout": [None, 0.5, None],
    "einsum": [[A], None],
    "import_tf_tensor": [[A, B]],
    "leaky_relu": [0.2],
    "matmul": [None, None],
    "one_hot": [1.0, 0.0, tf.float32],
    "range": [tf.int32],
    "sample_with_temperature": [1.0],
    "shift": [False],
    "slicewise": [None, None, None, None],
    "stack": [0],
    **{name: [None] for name in ("reduce_logsumexp", "log_softmax", "softmax")},
    **{name: [None] for name in ("minimum", "maximum", "add", "sub", "multiply", "divide")},
    **{f"{kind}_pool{n}d": [(2,) * n] for kind in ("max", "avg") for n in (2, 3)},
}


@pytest.mark.parametrize("op", CALLS)
def test_a_name_changes_no_result(op: str) -> None:
    arguments, keywords = CALLS[op]
    plain = getattr(mtf, op)(*arguments, **keywords)
    calls = [(arguments, {**keywords, "name": "node"})]
    if not op.startswith("reduce_") or op == "reduce_logsumexp":  # the rest has no position for it
        positional = {"key": KEY} if "key" in keywords else {}
        calls.append(([*arguments, *ALL_POSITIONS.get(op, ()), "node"], positional))
    for args, kwargs in calls:
        named = getattr(mtf, op)(*args, **kwargs)
        tf.nest.map_structure(
            np.testing.assert_array_equal, mtf.to_numpy(named), mtf.to_numpy(plain)
        )


def test_an_additional_argument_that_is_not_a_name_is_an_error() -> None:
    with pytest.raises(TypeError, match="positional argument"):
        mtf.top_1(X, A, 3)  # type: ignore[call-arg]


def test_a_misspelt_keyword_is_still_an_error() -> None:
    with pytest.raises(TypeError, match="nmae"):
        mtf.sin(X, nmae="sine")  # type: ignore[call-arg]


def test_none_converts_to_none() -> None:
    assert mtf.convert_to_shape(None) is None
    assert mtf.convert_to_dimension(None) is None
    assert mtf.convert_to_shape([A, "b:2"]) == mtf.Shape([A, B])
    assert mtf.convert_to_dimension("a:3") == A


def test_an_operation_without_its_dimension_is_an_error_in_one_line() -> None:
    with pytest.raises(mtf.ShapeError, match=r"^None is not a dimension: give a Dimension,"):
        mtf.softmax(X, None)  # type: ignore[arg-type]
    with pytest.raises(mtf.ShapeError, match=r"^None is not a shape: give dimensions"):
        mtf.reshape(X, None)  # type: ignore[arg-type]
