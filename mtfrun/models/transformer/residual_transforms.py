"""Transforms: the steps of a stack before, around and after its sublayers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import ActivationScale, Dense, Dropout, RMSNorm
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class Transform(Protocol):
    """One step from vectors to vectors of the same shape, such as `RMSNorm` or `LayerNorm`."""

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {..., d_model} for x of the same shape: whole sequences or one position."""


# Made as `transform_class(mesh, d_model, dtypes)`.
TransformClass = Callable[..., Transform]


class _Stateless:
    """A transform without variables."""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension, dtypes: Any = None) -> None:
        """Takes the arguments of all transforms."""


class CallLayer(_Stateless):
    """The sublayer's place among the transforms around it."""

    short_name = "layer"

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        raise InputError("CallLayer has its place in StackTransforms.layer only")


class Residual(_Stateless):
    """Adds the input of the sublayer; He et al. 2015, arXiv:1512.03385.

    Last, with a norm before the sublayer, it makes the order of Xiong et al. 2020,
    arXiv:2002.04745, figure 1b; before a norm the order of Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if call.sublayer_input is None:
            raise InputError("Residual has its place in StackTransforms.layer only")
        return call.sublayer_input + x


class MaskPadding(_Stateless):
    """Sets padding to 0, so that it counts in no statistics, such as the load of experts."""

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        if call.nonpadding is None:
            return x
        return x * mtf.cast(call.nonpadding, x.dtype)


class ConstantFactor(_Stateless):
    """Multiplies by a constant: embeddings, a sublayer's output or the input of the softmax.

    Args:
      factor: None for the square root of d_model, as of the embeddings in Vaswani et al. 2017,
        arXiv:1706.03762, section 3.4.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        factor: float | None = None,
    ) -> None:
        super().__init__(mesh, d_model, dtypes)
        self.factor = d_model.size**0.5 if factor is None else factor

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return x * self.factor


class DenseTransform(Dense):
    """A trained map of vectors to vectors of the same size, with an activation."""

    short_name = "dense"

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        activation: Callable[[mtf.Tensor], mtf.Tensor] | None = None,
        use_bias: bool = True,
    ) -> None:
        super().__init__(
            mesh, [d_model], [d_model], dtypes, activation=activation, use_bias=use_bias
        )


class MeanOverLength(_Stateless):
    """Replaces the vectors of a row by their mean, without padding."""

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        length = x.shape.get_dim_by_name("length")
        nonpadding = call.nonpadding
        if nonpadding is None:
            nonpadding = mtf.ones(x.mesh, [length])
        total = mtf.reduce_sum(mtf.to_float(x) * nonpadding, reduced_dim=length)
        number = mtf.maximum(mtf.reduce_sum(nonpadding, reduced_dim=length), 1.0)
        return mtf.cast(mtf.broadcast(total / number, x.shape), x.dtype)


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
        super().__init__(rate)


@dataclasses.dataclass(frozen=True)
class StackTransforms:
    """The transforms of a stack: classes, called as `transform_class(mesh, d_model, dtypes)`.

    By default the order of Xiong et al. 2020, arXiv:2002.04745, figure 1b: dropout; of every
    sublayer x + dropout(layer(norm(x))); a last normalisation and dropout. Vaswani et al. 2017,
    arXiv:1706.03762, have the norm last in `layer`.

    Attributes:
      initial: the transforms of the input.
      layer: the transforms around every sublayer, which is called in the place of `CallLayer`.
      final: the transforms of the output.
      first: the transforms around a stack's first sublayer, if not `layer`: after an `initial`
        that ends with a norm, a norm is redundant.
      activation_scale: whether the residual stream is measured after every sublayer, see
        `layers.ActivationScale`.
    """

    initial: Sequence[TransformClass] = (SublayerDropout,)
    layer: Sequence[TransformClass] = (RMSNorm, CallLayer, SublayerDropout, Residual)
    final: Sequence[TransformClass] = (RMSNorm, SublayerDropout)
    first: Sequence[TransformClass] | None = None
    activation_scale: bool = False

    def around_sublayer(self, *, is_first: bool) -> Sequence[TransformClass]:
        layer = self.first if is_first and self.first is not None else self.layer
        return (*layer, ActivationScale) if self.activation_scale else layer


def add_transforms(
    module: mtf.Module,
    classes: Sequence[TransformClass],
    mesh: mtf.Mesh,
    d_model: mtf.Dimension,
    dtypes: mtf.DTypePolicy,
    *,
    prefix: str = "",
) -> list[str]:
    """Makes transforms the attributes of a module, named after their classes; returns the names."""
    names = [prefix + name for name in distinct_names(classes)]
    for name, transform_class in zip(names, classes, strict=True):
        setattr(module, name, transform_class(mesh, d_model, dtypes))
    return names


def distinct_names(classes: Sequence[Callable[..., Any]]) -> list[str]:
    """Returns an attribute name for each class: "self_attention" for SelfAttention.

    A class may have a `short_name` instead. A class that is listed twice gets numbers: "norm_0".
    """
    # A functools.partial stands for its class.
    classes = [getattr(cls, "func", cls) for cls in classes]
    names = [getattr(cls, "short_name", _snake_case(cls.__name__)) for cls in classes]
    return [
        f"{name}_{names[:i].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


# Made as `sublayer_class(mesh, d_model, dtypes)`.
SublayerClass = Callable[..., Sublayer]


class TransformedLayer(Sublayer):
    """Transforms in their order, with a sublayer in the place of the only `CallLayer`.

    Variables are named "layer/..." and after the classes of the transforms, "norm/scale".

    Attributes:
      names: the attributes of the transforms, in their order.
      adapter: called with the output of the sublayer, or None.
    """

    def __init__(
        self,
        layer: SublayerClass,
        transforms: Sequence[TransformClass],
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__()
        self.names = tuple(add_transforms(self, transforms, mesh, d_model, dtypes))
        places = [name for name in self.names if isinstance(getattr(self, name), CallLayer)]
        if len(places) != 1:
            raise InputError(f"StackTransforms.layer has CallLayer {len(places)} times, not once")
        self.layer = layer(mesh, d_model, dtypes)
        self.mesh, self.d_model = mesh, d_model
        self.adapter: Transform | None = None

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._run(lambda y, state, call: (self.layer(y, call), state), x, (), call)[0]

    def tie_to(self, first: Self) -> None:
        self.layer.tie_to(first.layer)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        return self.layer.initial_state(batch, memory_length, call)

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run(self.layer.step, x, state, call)

    def can_step_in_blocks(self) -> bool:
        return self.layer.can_step_in_blocks()

    def can_prefill(self, call: SequenceCall) -> bool:
        return self.layer.can_prefill(call)

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run(self.layer.prefill, x, state, call)

    def _run(
        self,
        call_layer: Callable[[mtf.Tensor, Any, SequenceCall], tuple[mtf.Tensor, Any]],
        x: mtf.Tensor,
        state: Any,
        call: SequenceCall,
    ) -> tuple[mtf.Tensor, Any]:
        transform_call = dataclasses.replace(call, sublayer_input=x)
        for name in self.names:
            transform = getattr(self, name)
            if transform is self.layer:
                x, state = call_layer(x, state, call)
                x = x if self.adapter is None else self.adapter(x, call)
            else:
                x = transform(x, transform_call)
        return x, state
