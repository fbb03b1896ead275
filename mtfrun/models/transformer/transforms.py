"""What a stack does before and after its sublayers: transforms, listed in their order."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Context, Dropout, RMSNorm


class Transform(Protocol):
    """One step from vectors to vectors of the same shape, such as `RMSNorm` or `LayerNorm`."""

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {..., d_model} for x of the same shape: whole rows or one position."""


# Made as `transform_class(mesh, d_model, dtypes)`.
TransformClass = Callable[..., Transform]


class _Stateless:
    """A transform without variables or settings."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        """Takes what all transforms are given."""


class CallLayer(_Stateless):
    """The sublayer's place among the transforms around it."""

    short_name = "layer"

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Raises InputError: there is no sublayer here."""
        raise InputError("CallLayer has its place in StackTransforms.layer only")


class Residual(_Stateless):
    """Adds what the sublayer was given; He et al. 2015, arXiv:1512.03385.

    Last, with a norm before the sublayer, it makes the order of Xiong et al. 2020,
    arXiv:2002.04745, figure 1b; before a norm that of Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns the context's `sublayer_input` + x.

        Raises:
          InputError: this is no transform around a sublayer.
        """
        if context.sublayer_input is None:
            raise InputError("Residual has its place in StackTransforms.layer only")
        return context.sublayer_input + x


class MaskPadding(_Stateless):
    """Sets padding to 0: what lies there reaches no statistics, such as the load of experts."""

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns x times the context's `nonpadding`; x where there is no padding."""
        if context.nonpadding is None:
            return x
        return x * mtf.cast(context.nonpadding, x.dtype)


class SublayerDropout(Dropout):
    """`Dropout` as a transform."""

    short_name = "dropout"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        rate: float = 0.0,
    ) -> None:
        """Takes the share of elements that are dropped, in [0, 1)."""
        super().__init__(rate)


@dataclasses.dataclass(frozen=True)
class StackTransforms:
    """What a stack does beside its sublayers: classes of transforms, in their order.

    They are called as `transform_class(mesh, d_model, dtypes)`; see `Transform`.

    By default the order of Xiong et al. 2020, arXiv:2002.04745, figure 1b: dropout; of every
    sublayer x + dropout(layer(norm(x))); a last normalisation and dropout. That of Vaswani et al.
    2017, arXiv:1706.03762, has the norm last in `layer`.

    initial: what the input goes through.
    layer: around every sublayer, which has its place where `CallLayer` is.
    final: what the output goes through.
    """

    initial: Sequence[TransformClass] = (SublayerDropout,)
    layer: Sequence[TransformClass] = (RMSNorm, CallLayer, SublayerDropout, Residual)
    final: Sequence[TransformClass] = (RMSNorm, SublayerDropout)


def add_transforms(
    module: mtf.Module,
    classes: Sequence[TransformClass],
    mesh: mtf.Mesh,
    d_model: mtf.Dimension,
    dtypes: mtf.DTypePolicy,
    *,
    prefix: str = "",
) -> list[str]:
    """Makes transforms the attributes of a module, called after their classes; returns the names.

    Args:
      module: whose attributes they become, so that their variables have its path before theirs.
      classes: called as `transform_class(mesh, d_model, dtypes)`.
      mesh, d_model, dtypes: as above.
      prefix: of the names.
    """
    names = [prefix + name for name in distinct_names(classes)]
    for name, transform_class in zip(names, classes, strict=True):
        setattr(module, name, transform_class(mesh, d_model, dtypes))
    return names


def distinct_names(classes: Sequence[Callable[..., Any]]) -> list[str]:
    """Returns an attribute name for each class: "self_attention" for SelfAttention.

    A class says otherwise with `short_name`. One that is listed twice gets numbers, "norm_0" and
    "norm_1".
    """
    # A functools.partial of a class is as good as a class.
    classes = [getattr(cls, "func", cls) for cls in classes]
    names = [getattr(cls, "short_name", _snake_case(cls.__name__)) for cls in classes]
    return [
        f"{name}_{names[:i].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
