"""A sublayer with the transforms around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.transformer.residual_transforms import CallLayer, TransformClass, add_transforms
from mtfrun.models.transformer.sequence_call import SequenceCall
from mtfrun.models.transformer.sublayer import Sublayer

# Made as `sublayer_class(mesh, d_model, dtypes)`.
SublayerClass = Callable[..., Sublayer]


class TransformedLayer(Sublayer):
    """Transforms in their order, with a sublayer in the place of the only `CallLayer`.

    Variables are named "layer/..." and after the classes of the transforms, "norm/scale".
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
        self._names = tuple(add_transforms(self, transforms, mesh, d_model, dtypes))
        places = [name for name in self._names if isinstance(getattr(self, name), CallLayer)]
        if len(places) != 1:
            raise InputError(
                f"StackTransforms.layer has CallLayer {len(places)} times, not once: it is where"
                " the sublayer is called"
            )
        self.layer = layer(mesh, d_model, dtypes)

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return self._run(lambda y: self.layer(y, call), x, call)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        return self.layer.initial_state(batch, memory_length, call)

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run_with_state(self.layer.step, x, state, call)

    def can_prefill(self, call: SequenceCall) -> bool:
        return self.layer.can_prefill(call)

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._run_with_state(self.layer.prefill, x, state, call)

    def _run_with_state(
        self,
        run: Callable[[mtf.Tensor, Any, SequenceCall], tuple[mtf.Tensor, Any]],
        x: mtf.Tensor,
        state: Any,
        call: SequenceCall,
    ) -> tuple[mtf.Tensor, Any]:
        next_states = []

        def call_layer(y: mtf.Tensor) -> mtf.Tensor:
            y, next_state = run(y, state, call)
            next_states.append(next_state)
            return y

        x = self._run(call_layer, x, call)
        return x, next_states[0]

    def _run(
        self, call_layer: Callable[[mtf.Tensor], mtf.Tensor], x: mtf.Tensor, call: SequenceCall
    ) -> mtf.Tensor:
        transform_call = dataclasses.replace(call, sublayer_input=x)
        for name in self._names:
            transform = getattr(self, name)
            x = call_layer(x) if transform is self.layer else transform(x, transform_call)
        return x
