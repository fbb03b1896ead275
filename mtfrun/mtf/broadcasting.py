"""Broadcasting by name: how values of different named shapes are combined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from mtfrun.errors import ShapeError
from mtfrun.mtf.dimension import Dimension
from mtfrun.mtf.mesh import Mesh
from mtfrun.mtf.shape import Shape, ShapeLike, convert_to_shape


def is_subsequence(short_seq: Sequence[Dimension], long_seq: Sequence[Dimension]) -> bool:
    """Returns whether the items of `short_seq` occur in `long_seq` in the same order."""
    remaining = iter(long_seq)
    return all(dim in remaining for dim in short_seq)


def union(*shapes: Shape) -> Shape:
    """Returns all dimensions of the shapes, in order of first appearance."""
    return Shape(dict.fromkeys(dim for shape in shapes for dim in shape))


def verify_no_new_dims(input_shapes: Iterable[ShapeLike], output_shape: ShapeLike) -> None:
    """Checks that the output has only dimensions of the inputs.

    Raises:
      ShapeError: with the name of a dimension that no input has.
    """
    input_dims = union(*(convert_to_shape(shape) for shape in input_shapes))
    for dim in convert_to_shape(output_shape):
        input_dims.index(dim)


def broadcast_shape(shape1: Shape, shape2: Shape) -> Shape:
    """Returns the result shape of an operation on two shapes.

    The longer one where it contains the other in order, else the union in order of appearance.
    """
    if is_subsequence(shape1.dims, shape2.dims):
        return shape2
    if is_subsequence(shape2.dims, shape1.dims):
        return shape1
    return union(shape1, shape2)


def align(value: tf.Tensor, shape: Shape, output_shape: Shape) -> tf.Tensor:
    """Returns `value` transposed, with axes of size 1, so that it broadcasts to `output_shape`.

    Raises:
      ShapeError: `shape` has a dimension that `output_shape` lacks.
    """
    if shape == output_shape:
        return value
    for dim in shape:
        if dim not in output_shape:
            raise ShapeError(
                f"dimension {dim.name}:{dim.size} of {shape} is not in the output {output_shape}: "
                "reduce it first or add it to the output"
            )
    order = [shape.index(dim) for dim in output_shape if dim in shape]
    if order != sorted(order):
        value = tf.transpose(value, order)
    # TensorFlow's own broadcasting adds the leading dimensions that are missing.
    first = next((i for i, dim in enumerate(output_shape) if dim in shape), len(output_shape))
    for axis, dim in enumerate(output_shape.dims[first:]):
        if dim not in shape:
            # Not value[:, None]: under DTensor a strided slice with a new axis ends the process.
            value = tf.expand_dims(value, axis)
    return value


def combine(
    tf_fn: Callable[..., tf.Tensor],
    mesh: Mesh,
    values: Sequence[tf.Tensor],
    shapes: Sequence[Shape],
    output_shape: Shape,
) -> tf.Tensor:
    """Returns tf_fn of the aligned values, laid out as `output_shape`."""
    aligned = [
        align(value, shape, output_shape) for value, shape in zip(values, shapes, strict=True)
    ]
    result = tf_fn(*aligned)
    if all(shape == output_shape for shape in shapes):
        return result  # laid out as its operands are
    if result.shape != output_shape.to_integer_list:  # a dimension that no operand has
        result = tf.broadcast_to(result, output_shape.to_integer_list)
    return mesh.constrain(result, output_shape)
