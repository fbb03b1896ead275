"""Arguments that only models written for Mesh TensorFlow pass: `name`, and None as a shape."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from mtfrun.mtf import shape
from mtfrun.mtf.shape import Dimension, DimensionLike, Shape, ShapeLike

_Op = TypeVar("_Op", bound=Callable[..., Any])


def accept_name(op: _Op) -> _Op:
    """Returns the operation with one more positional argument, `name`, which has no effect."""
    signature = inspect.signature(op)
    parameters = list(signature.parameters.values())
    position = sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in parameters)

    @functools.wraps(op)
    def takes_name(*args: Any, name: str | None = None, **kwargs: Any) -> Any:
        if len(args) == position + 1 and name is None and isinstance(args[-1], str | None):
            args = args[:-1]
        return op(*args, **kwargs)

    keyword = inspect.Parameter(
        "name", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="str | None"
    )
    takes_name.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*parameters[:position], keyword, *parameters[position:]]
    )
    return cast(_Op, takes_name)


@overload
def convert_to_dimension(d: None) -> None: ...
@overload
def convert_to_dimension(d: DimensionLike) -> Dimension: ...
def convert_to_dimension(d: DimensionLike | None) -> Dimension | None:
    """Returns the dimension of any `DimensionLike`, or None for None."""
    return None if d is None else shape.convert_to_dimension(d)


@overload
def convert_to_shape(x: None) -> None: ...
@overload
def convert_to_shape(x: ShapeLike) -> Shape: ...
def convert_to_shape(x: ShapeLike | None) -> Shape | None:
    """Returns the shape of any `ShapeLike`, or None for None."""
    return None if x is None else shape.convert_to_shape(x)
