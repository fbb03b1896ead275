"""Arguments that only models written for Mesh TensorFlow pass: `name`, and None as a shape."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from mtfrun.mtf import dimension, shape
from mtfrun.mtf.dimension import Dimension, DimensionLike
from mtfrun.mtf.shape import Shape, ShapeLike

_Op = TypeVar("_Op", bound=Callable[..., Any])


def named(op: _Op) -> _Op:
    """Returns the operation with one more keyword, `name`, which has no effect.

    In Mesh TensorFlow it is the name of a node of the graph.
    """

    @functools.wraps(op)
    def takes_name(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        del name
        return op(*args, **kwargs)

    signature = inspect.signature(op)
    keyword = inspect.Parameter(
        "name", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | None"
    )
    takes_name.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), keyword]
    )
    return cast(_Op, takes_name)


@overload
def convert_to_dimension(d: None) -> None: ...
@overload
def convert_to_dimension(d: DimensionLike) -> Dimension: ...
def convert_to_dimension(d: DimensionLike | None) -> Dimension | None:
    """Returns the dimension of a `Dimension`, a (name, size) pair or "name:size"; None of None.

    Raises:
      ShapeError: `d` is anything else, or its size is below 1.
    """
    return None if d is None else dimension.convert_to_dimension(d)


@overload
def convert_to_shape(x: None) -> None: ...
@overload
def convert_to_shape(x: ShapeLike) -> Shape: ...
def convert_to_shape(x: ShapeLike | None) -> Shape | None:
    """Returns the shape of a `Shape`, of dimensions, of one dimension or of a text; None of None.

    Raises:
      ShapeError: `x` is anything else, or has two dimensions of one name.
    """
    return None if x is None else shape.convert_to_shape(x)
