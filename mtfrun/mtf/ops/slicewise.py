"""Custom operations: TensorFlow functions of raw values, lifted to named tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.elementwise import cast
from mtfrun.mtf.porting import accept_name
from mtfrun.mtf.shape import DimensionLike, Shape, ShapeLike, convert_to_dimension, convert_to_shape
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, binary, gather_along, lay_out

GradFunction: TypeAlias = "Callable[..., Sequence[TensorLike | None]]"


@accept_name
def cwise(
    tf_fn: Callable[..., tf.Tensor],
    xs: Sequence[TensorLike],
    output_dtype: tf.DType | None = None,
    grad_function: GradFunction | None = None,
) -> Tensor:
    """Returns an element-wise TensorFlow function of tensors of one shape; see `slicewise`."""
    shapes = [as_tensor(x).shape for x in xs]
    if len(set(shapes)) > 1:
        raise ShapeError(f"cwise needs tensors of one shape, got {', '.join(map(str, shapes))}")
    result: Tensor = slicewise(tf_fn, xs, shapes[0], output_dtype, shapes[0], grad_function)
    return result


@accept_name
def slicewise(
    tf_fn: Callable[..., Any],
    xs: Sequence[TensorLike],
    output_shape: ShapeLike | Sequence[ShapeLike] | None = None,
    output_dtype: tf.DType | None = None,
    splittable_dims: Iterable[DimensionLike] | None = None,
    grad_function: GradFunction | None = None,
) -> Any:
    """Returns a TensorFlow function of raw values, which devices compute on their slices.

    tf_fn must be pure and consist of operations that DTensor supports: it is traced once for all
    devices and sees global sizes. It may compute slices along `splittable_dims` independently;
    other dimensions are gathered first, by default all.

    `output_shape` is by default the first x's; for several results it is a list of shapes. They are
    cast to `output_dtype`. `grad_function` replaces tf_fn's gradient, see `mtf.custom_gradient`.
    """
    tensors = [as_tensor(x) for x in xs]
    shapes = list(output_shape) if isinstance(output_shape, (list, tuple)) else []
    several = bool(shapes) and all(isinstance(shape, Shape) for shape in shapes)
    if not several:
        one: Any = tensors[0].shape if output_shape is None else output_shape
        shapes = [convert_to_shape(one)]
    splittable = {convert_to_dimension(dim) for dim in splittable_dims or ()}
    for dim in splittable:
        if not any(dim in x.shape for x in tensors):
            inputs = ", ".join(str(x.shape) for x in tensors)
            raise ShapeError(f"splittable dimension {dim} is in none of {inputs}")

    def apply(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        gathered = (gather_along(x, *(d for d in x.shape if d not in splittable)) for x in inputs)
        values = tf_fn(*gathered)
        results = tuple(
            lay_out(inputs[0], tf.cast(value, output_dtype or value.dtype), shape)
            for value, shape in zip(values if several else [values], shapes, strict=True)
        )
        return results if several else results[0]

    if grad_function is None:
        return apply(*tensors)
    return custom_gradient(apply, grad_function, tensors)


def binary_op_with_broadcasting(
    tf_fn: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    x1: TensorLike,
    x2: TensorLike,
    output_shape: ShapeLike | None = None,
    output_dtype: tf.DType | None = None,
) -> Tensor:
    """Returns an element-wise TensorFlow function of two tensors, broadcast by name."""
    result = binary(tf_fn, x1, x2, output_shape)
    return result if output_dtype is None else cast(result, output_dtype)
