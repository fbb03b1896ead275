"""A stack of equal blocks of sublayers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import (
    Auxiliary,
    Collector,
    Context,
    FeedForward,
    Sublayer,
)
from mtfrun.models.transformer.self_attention import RelativeBiasClass, SelfAttention
from mtfrun.models.transformer.transformed_layer import SublayerClass, TransformedLayer
from mtfrun.models.transformer.transforms import StackTransforms, add_transforms, distinct_names


class Stack(Sublayer):
    """Transforms, `num_layers` blocks of the sublayers in `layers`, and transforms again.

    Variables are called after the classes: "blocks/0/self_attention/layer/attention/query",
    "blocks/0/feed_forward/norm/scale", "final_norm/scale". A class that is in a list twice gets
    numbers: "feed_forward_0", "feed_forward_1".

    Args:
      mesh, d_model, dtypes: handed on to all layers.
      num_layers: the number of blocks.
      layers: classes, called as `sublayer_class(mesh, d_model, dtypes)` for every block.
      transforms: of the input, around every sublayer, and of the output: see `StackTransforms`.
      relative_bias: a class, called as `relative_bias(mesh, dtypes)`, for logits by distance in the
        self-attention of all blocks; None for none.
      rematerialise: compute every block again in the backward pass instead of keeping its inner
        values: memory for about a third more time.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        num_layers: int = 6,
        layers: Sequence[SublayerClass] = (SelfAttention, FeedForward),
        transforms: StackTransforms = StackTransforms(),
        relative_bias: RelativeBiasClass | None = None,
        rematerialise: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1 or not layers:
            raise InputError(
                f"a stack needs at least one block and one layer class, got num_layers={num_layers}"
                f" and {len(layers)} layers"
            )
        self._rematerialise = rematerialise
        self._initial = tuple(add_transforms(self, transforms.initial, mesh, d_model, dtypes))
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)
        names = distinct_names(layers)
        self.blocks = [
            {
                name: TransformedLayer(layer, transforms.layer, mesh, d_model, dtypes)
                for name, layer in zip(names, layers, strict=True)
            }
            for _ in range(num_layers)
        ]
        self._final = tuple(
            add_transforms(self, transforms.final, mesh, d_model, dtypes, prefix="final_")
        )

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns {batch..., length, d_model} for x of the same shape."""
        x, context = self._begin(x, context)
        for block in self.blocks:
            x = self._run(block.values(), x, context)
        return self._transformed(self._final, x, context)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> Any:
        """Returns the states of all sublayers, by block and name."""
        batch = list(batch)
        return [
            {
                name: sublayer.initial_state(batch, memory_length, context)
                for name, sublayer in block.items()
            }
            for block in self.blocks
        ]

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output at `context.position` and the next states; x: {batch..., d_model}."""
        return self._with_states(
            lambda sublayer, *inputs: sublayer.step(*inputs), x, state, context
        )

    def can_prefill(self, context: Context) -> bool:
        """Returns whether all sublayers have a `prefill` for such calls."""
        return all(layer.can_prefill(context) for block in self.blocks for layer in block.values())

    def prefill(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output for whole sequences and the states after them."""
        return self._with_states(
            lambda sublayer, *inputs: sublayer.prefill(*inputs), x, state, context
        )

    def _with_states(
        self,
        run: Callable[..., tuple[mtf.Tensor, Any]],
        x: mtf.Tensor,
        state: Any,
        context: Context,
    ) -> tuple[mtf.Tensor, Any]:
        """Returns the output and the next states; `run` runs a sublayer with its state."""
        x, context = self._begin(x, context)
        next_state = []
        for block, block_state in zip(self.blocks, state, strict=True):
            results = {}
            for name, sublayer in block.items():
                x, results[name] = run(sublayer, x, block_state[name], context)
            next_state.append(results)
        return self._transformed(self._final, x, context), next_state

    def _begin(self, x: mtf.Tensor, context: Context) -> tuple[mtf.Tensor, Context]:
        """Returns what the first block gets."""
        if self.relative_bias is not None:
            context = self.relative_bias.added_to(context, x)
        return self._transformed(self._initial, x, context), context

    def _transformed(self, names: Sequence[str], x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns x after the transforms that are the attributes `names`."""
        for name in names:
            x = getattr(self, name)(x, context)
        return x

    def _run(self, block: Iterable[Sublayer], x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns what a block makes of x, remembering or not what lies between."""
        sublayers = tuple(block)

        def run(
            x: mtf.Tensor, *differentiated: mtf.Tensor
        ) -> tuple[mtf.Tensor, dict[str, Auxiliary]]:
            collector = Collector()
            replaced: dict[str, Any] = dict(zip(names, differentiated, strict=True))
            inside = dataclasses.replace(context, collector=collector, **replaced)
            for sublayer in sublayers:
                x = sublayer(x, inside)
            return x, collector.found

        # Tensors that a rematerialised function does not take as arguments get no gradient.
        names = ["encoder_output"] if context.encoder_output is not None else []
        if self.relative_bias is not None:
            names.append("self_attention_bias")
        inputs = [x, *(getattr(context, name) for name in names)]
        remember = not (self._rematerialise and context.training)
        x, found = run(*inputs) if remember else mtf.recompute_grad(run, inputs)
        if context.collector is not None:
            context.collector.add_all(found)
        return x
