"""Calls of element-wise operations, reductions and contractions, to be run under all layouts.

With moving_cases.py and spatial_cases.py, every operation has a case. The dimensions that
a layout splits have 8 or more entries, so that every mesh of tests/layouts.py divides them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from mtfrun import mtf

KEY = mtf.random_key(7, "op cases")
DATA_MODEL = "a:data;b:model"
MODEL_DATA = "b:data;a:model"


@dataclasses.dataclass(frozen=True)
class OpCase:
    """A call.

    Attributes:
      name: the operation, with the particular of the call.
      fn: takes tensors and returns one or a list.
      inputs: the shapes of the tensors; the entries of "int ..." are integers in [-2, 10), of
        "positive ..." at least 0.5, of "bool ..." booleans.
      layouts: layout rules; each splits a dimension of an input or output.
      differentiable: whether gradients are compared too.
    """

    name: str
    fn: Callable[..., Any]
    inputs: tuple[str, ...]
    layouts: tuple[str, ...] = (DATA_MODEL, MODEL_DATA)
    differentiable: bool = True

    def arrays(self) -> list[tuple[np.ndarray, mtf.Shape]]:
        """Returns the values of the inputs, always the same, with their shapes."""
        rng = np.random.default_rng(len(self.name) + sum(map(len, self.inputs)))
        return [_array(text, rng) for text in self.inputs]

    def tensors(self, mesh: mtf.Mesh) -> list[mtf.Tensor]:
        """Returns the inputs on a mesh."""
        return [mtf.import_tf_tensor(mesh, array, shape) for array, shape in self.arrays()]

    def outputs(self, inputs: list[mtf.Tensor]) -> list[mtf.Tensor]:
        """Returns the results of the call as a list."""
        result = self.fn(*inputs)
        return [result] if isinstance(result, mtf.Tensor) else list(result)


def _array(text: str, rng: np.random.Generator) -> tuple[np.ndarray, mtf.Shape]:
    kind, _, shape_text = text.rpartition(" ")
    shape = mtf.convert_to_shape(shape_text)
    sizes = shape.to_integer_list
    if kind == "int":
        return rng.integers(-2, 10, sizes, dtype=np.int32), shape
    if kind == "bool":
        return rng.random(sizes) < 0.5, shape
    draws = rng.standard_normal(sizes, dtype=np.float32)
    return (np.abs(draws) + 0.5 if kind == "positive" else draws), shape


def _each(functions: str) -> Callable[..., list[mtf.Tensor]]:
    """Returns a function that calls all of these with the same arguments."""
    return lambda *xs: [getattr(mtf, name)(*xs) for name in functions.split()]


A, B, C = (mtf.Dimension(name, 8) for name in "abc")
AB, ABC, BC = "a:8;b:8", "a:8;b:8;c:8", "b:8;c:8"

ELEMENTWISE = [
    OpCase(
        "smooth_functions",
        _each(
            "identity optimization_barrier sin cos square exp sigmoid tanh negative swish gelu elu"
            " selu softplus exact_gelu sigmoid_gelu"
        ),
        (AB,),
    ),
    OpCase("functions_with_a_kink", _each("relu leaky_relu abs sign"), (AB,)),
    OpCase(
        "functions_of_positive_numbers", _each("sqrt rsqrt log reciprocal"), (f"positive {AB}",)
    ),
    OpCase("casts", _each("to_float to_int32 to_bfloat16 stop_gradient is_finite"), (AB,)),
    OpCase("cast", lambda x: [mtf.cast(x, tf.bfloat16), mtf.cast(x, tf.int32)], (AB,)),
    OpCase("logical_functions", _each("logical_and logical_or not_equal"), (f"bool {AB}",) * 2),
    OpCase("logical_not", mtf.logical_not, (f"bool {AB}",)),
    OpCase("same_shapes", _each("add sub multiply divide minimum maximum"), (AB, f"positive {AB}")),
    OpCase("a_shape_in_the_other", _each("add sub multiply maximum"), (ABC, "b:8")),
    OpCase("shapes_without_a_common_dimension", _each("add multiply minimum"), (AB, "c:8")),
    OpCase("permuted_shapes", _each("add sub multiply"), (AB, "b:8;a:8")),
    OpCase("an_output_shape", lambda x, y: mtf.add(x, y, "c:8;b:8;a:8"), (AB, "c:8")),
    OpCase(
        "python_numbers",
        lambda x: [x + 1, 2 - x, x * 3.0, 1.0 / (x * x + 1.0), mtf.minimum(x, 0.5), -x],
        (AB,),
    ),
    OpCase(
        "comparisons",
        _each("less greater less_equal greater_equal equal not_equal"),
        (f"int {AB}", "int b:8"),
    ),
    OpCase(
        "integer_division",
        lambda x, y: [mtf.floordiv(x, y * y + 1), mtf.mod(x, 3), x // 2, x % (y * y + 1), 7 - x],
        (f"int {AB}", "int b:8"),
    ),
    OpCase("pow", lambda x, y: [mtf.pow(x, 1.5), mtf.pow(x, y)], (f"positive {AB}", "b:8")),
    OpCase("where", mtf.where, ("bool a:8", AB, "b:8;c:8")),
    OpCase("where_of_a_scalar_condition", mtf.where, ("bool ", AB, "b:8")),
    OpCase("where_with_numbers", lambda m, x: mtf.where(m, x, -1e9), (f"bool {AB}", AB)),
    OpCase("add_n", lambda *xs: mtf.add_n(xs), (AB, "b:8", ABC)),
    OpCase(
        "add_n_of_scalars", lambda *xs: mtf.add_n([mtf.reduce_sum(x) for x in xs]), (AB, "b:8", ABC)
    ),
    OpCase("cwise", lambda x, y: mtf.cwise(lambda p, q: p * tf.exp(q), [x, y]), (AB, AB)),
    OpCase(
        "binary_op_with_broadcasting",
        lambda x, y: mtf.binary_op_with_broadcasting(tf.math.squared_difference, x, y),
        (AB, "b:8"),
    ),
    OpCase(
        "slicewise",
        lambda x: mtf.slicewise(
            lambda v: tf.cumsum(v, axis=1) - tf.reduce_mean(v, 1, keepdims=True),
            [x],
            splittable_dims=[A],
        ),
        (AB,),
    ),
]

REDUCTIONS = [
    *(
        OpCase(
            name,
            lambda x, name=name: [
                getattr(mtf, name)(x, reduced_dim=A),
                getattr(mtf, name)(x, reduced_dim=B),
                getattr(mtf, name)(x, output_shape="c:8;a:8"),
                getattr(mtf, name)(x),
            ],
            (ABC,),
        )
        for name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
    ),
    OpCase("l2_loss", mtf.l2_loss, (ABC,)),
    OpCase(
        "reduce_all_and_any",
        lambda x: [mtf.reduce_all(x, reduced_dim=A), mtf.reduce_any(x, reduced_dim=B)],
        (f"bool {AB}",),
    ),
    OpCase(
        "softmax_family",
        lambda x: [
            fn(x, dim)
            for fn in (mtf.softmax, mtf.log_softmax, mtf.reduce_logsumexp)
            for dim in (A, B)
        ],
        (ABC,),
    ),
    OpCase(
        "softmax_with_an_extra_logit",
        lambda x, y: [
            mtf.softmax(x, B, 0.0),
            mtf.log_softmax(x, B, y),
            mtf.reduce_logsumexp(x, A, 1.5),
        ],
        (AB, "a:8"),
    ),
    OpCase("cumsum", lambda x: [mtf.cumsum(x, A), mtf.cumsum(x, B, exclusive=True)], (AB,)),
    OpCase("argmax", lambda x: [mtf.argmax(x, A), mtf.argmax(x, B)], (ABC,)),
    OpCase("top_1", lambda x: [*mtf.top_1(x, A), *mtf.top_1(x, B)], (ABC,)),
    OpCase("top_k", lambda x: [*mtf.top_k(x, C, "k:2"), *mtf.top_k(x, B, "k:3")], (ABC,)),
    OpCase(
        "top_k_into_a_split_dimension",
        lambda x: list(mtf.top_k(x, C, "k:8")),
        (ABC,),
        ("a:data;k:model", "k:data;c:model"),
    ),
    OpCase(
        "nth_elements",
        lambda x: [mtf.nth_largest_element(x, 1, C), mtf.nth_smallest_element(x, 2, B)],
        (ABC,),
    ),
    OpCase(
        "sample_with_temperature",
        lambda x: [
            mtf.sample_with_temperature(x, B, 0.7, key=KEY),
            mtf.sample_with_temperature(x, B, 0.0),
        ],
        (AB,),
    ),
]

CONTRACTIONS = [
    OpCase("matmul", lambda x, y: mtf.matmul(x, y), (AB, BC), (DATA_MODEL, "a:data;c:model")),
    OpCase(
        "einsum_with_a_batch",
        lambda x, y: mtf.einsum([x, y], "a:8;b:8;d:8"),
        (ABC, "b:8;c:8;d:8"),
        (DATA_MODEL, "c:data;d:model"),
    ),
    OpCase(
        "einsum_of_four",
        lambda *xs: mtf.einsum(xs, "b:8;h:8;l:8;m:8"),
        ("b:8;l:8;d:8", "h:8;d:8;k:8", "h:8;e:8;k:8", "b:8;m:8;e:8"),
        ("b:data;h:model", "d:data;k:model"),
    ),
    OpCase(
        "einsum_over_two_dimensions",
        lambda x, y: mtf.einsum([x, y], "a:8;d:8"),
        (ABC, "b:8;c:8;d:8"),
        (DATA_MODEL, "c:data;d:model"),
    ),
    OpCase("einsum_of_one", lambda x: mtf.einsum([x], "c:8;a:8"), (ABC,)),
    OpCase("outer_product", lambda x, y: mtf.einsum([x, y], "b:8;a:8"), ("a:8", "b:8")),
    OpCase(
        "einsum_with_reduced_dims",
        lambda x, y: mtf.einsum([x, y], reduced_dims=["a:8", "c:8"]),
        (ABC, BC),
    ),
    OpCase(
        "grouped_matmul",
        lambda x, kernels, sizes: mtf.grouped_matmul(x, kernels, mtf.abs(sizes) % 2),
        (AB, "c:8;b:8;d:8", "int c:8"),
        (DATA_MODEL, "c:data;d:model", "a:data;c:model"),
    ),
    OpCase(
        "sparse_softmax_cross_entropy",
        lambda x, ids: mtf.sparse_softmax_cross_entropy(x, mtf.abs(ids) % 8, C),
        (ABC, f"int {AB}"),
        (DATA_MODEL, "a:data;c:model"),
    ),
    OpCase(
        "sparse_cross_entropy",
        lambda x, ids: list(mtf.sparse_cross_entropy(x, mtf.abs(ids) % 8, C)),
        (ABC, f"int {AB}"),
        (DATA_MODEL, "a:data;c:model"),
    ),
]

CASES = [*ELEMENTWISE, *REDUCTIONS, *CONTRACTIONS]
