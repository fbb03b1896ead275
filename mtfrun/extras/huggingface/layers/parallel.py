"""Parallel sublayers: attention and a feed-forward layer of one input."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

from mtfrun import mtf
from mtfrun.models.transformer.attention import SelfAttention
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import (
    CallLayer,
    SublayerClass,
    TransformClass,
    TransformedLayer,
    distinct_names,
)
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class Parallel(Sublayer):
    """The sum of sublayers of the same input; Chowdhery et al. 2022, arXiv:2204.02311, section 2.

    As in GPT-J (Wang and Komatsuzaki 2021): with the norm and the residual around it, a block is
    x + attention(norm(x)) + feed_forward(norm(x)).

    Args:
      layers: the sublayers' classes, called as `sublayer_class(mesh, d_model, dtypes)`.
      transforms: the transforms of each sublayer, as `StackTransforms.layer`: [LayerNorm,
        CallLayer] for separate norms, as in GPT-NeoX (Black et al. 2022, arXiv:2204.06745).
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        layers: Sequence[SublayerClass] = (SelfAttention, FeedForward),
        transforms: Sequence[TransformClass] = (CallLayer,),
    ) -> None:
        super().__init__()
        self.layers = {
            name: TransformedLayer(layer, transforms, mesh, d_model, dtypes)
            for name, layer in zip(distinct_names(layers), layers, strict=True)
        }

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return functools.reduce(mtf.add, [layer(x, call) for layer in self.layers.values()])

    def tie_to(self, first: Self) -> None:
        for name, layer in self.layers.items():
            layer.tie_to(first.layers[name])

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        batch = list(batch)
        return {
            name: layer.initial_state(batch, memory_length, call)
            for name, layer in self.layers.items()
        }

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._with_states(TransformedLayer.step, x, state, call)

    def can_step_in_blocks(self) -> bool:
        return all(layer.can_step_in_blocks() for layer in self.layers.values())

    def can_prefill(self, call: SequenceCall) -> bool:
        return all(layer.can_prefill(call) for layer in self.layers.values())

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._with_states(TransformedLayer.prefill, x, state, call)

    def _with_states(
        self,
        run: Callable[..., tuple[mtf.Tensor, Any]],
        x: mtf.Tensor,
        state: Any,
        call: SequenceCall,
    ) -> tuple[mtf.Tensor, Any]:
        results = {name: run(layer, x, state[name], call) for name, layer in self.layers.items()}
        output = functools.reduce(mtf.add, [y for y, _ in results.values()])
        return output, {name: next_state for name, (_, next_state) in results.items()}
