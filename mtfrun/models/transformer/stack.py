"""A stack of equal blocks of sublayers, and vectors before its input that an adapter trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import Range, check_range
from mtfrun.layers import recompute, scan_layers
from mtfrun.models.transformer.attention import RelativeBiasClass, SelfAttention, with_relative_bias
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import (
    StackTransforms,
    SublayerClass,
    TransformedLayer,
    add_transforms,
    distinct_names,
)
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

# A layer's `step` or `prefill`, called as `run(layer, x, state, call)`.
RunWithState = Callable[..., tuple[mtf.Tensor, Any]]

# More would take hours to build, whatever their size.
_NUM_LAYERS = Range(1, 10_000, whole=True)


class Stack(Sublayer):
    """Transforms, `num_layers` blocks of the sublayers in `layers`, and transforms again.

    Variables are named after the classes: "blocks/0/self_attention/layer/attention/query",
    "blocks/0/feed_forward/norm/scale", "final_norm/scale". A class that is in a list twice gets
    numbers: "feed_forward_0", "feed_forward_1".

    Args:
      layers: classes, called as `sublayer_class(mesh, d_model, dtypes)` for every block.
      transforms: the residual transforms of input, sublayers and output.
      relative_bias: a class, called as `relative_bias(mesh, dtypes)`, for logits by distance in the
        self-attention of all blocks.
      rematerialise: compute the inner values of every block again in the backward pass: less memory
        for about a third more time. A list has the names of recomputed values, such as
        ["dense"], besides values without a name: see `layers.recompute`.
      scan_blocks: the number of blocks in the body of a loop, which is compiled instead of all
        `num_layers`; None unrolls them. The time to compile then hardly depends on the number of
        layers; variables, checkpoints and results are the same. In training only the inputs of
        groups of this many blocks are stored, as with `rematerialise`, which then has no effect.
        Decoding is unrolled, and so are the groups on several devices.
    """

    can_scan: ClassVar[bool] = True

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
        rematerialise: bool | Sequence[str] = False,
        scan_blocks: int | None = None,
    ) -> None:
        super().__init__()
        check_range("Stack.num_layers", num_layers, _NUM_LAYERS)
        if not layers:
            raise InputError("Stack.layers is empty: name at least one class")
        recomputed = None if isinstance(rematerialise, bool) else tuple(rematerialise)
        if scan_blocks is not None:
            if not self.can_scan:
                who = f"{type(self).__name__}.scan_blocks={scan_blocks}"
                raise InputError(f"{who} is not supported: leave it out")
            if scan_blocks < 1 or num_layers % scan_blocks:
                raise InputError(f"Stack.scan_blocks={scan_blocks} must divide {num_layers} layers")
            if transforms.first is not None or recomputed is not None:
                excluded = "StackTransforms.first and a list as rematerialise"
                raise InputError(f"Stack.scan_blocks={scan_blocks} excludes {excluded}")
        self._rematerialise = recomputed is not None or rematerialise is True
        self._recomputed = recomputed
        self._scan_blocks = scan_blocks
        self.initial = tuple(add_transforms(self, transforms.initial, mesh, d_model, dtypes))
        self.relative_bias = None if relative_bias is None else relative_bias(mesh, dtypes)
        names = distinct_names(layers)
        self.blocks = [
            {
                name: TransformedLayer(
                    layer,
                    transforms.around_sublayer(is_first=block == 0 and name == names[0]),
                    *(mesh, d_model, dtypes),
                )
                for name, layer in zip(names, layers, strict=True)
            }
            for block in range(num_layers)
        ]
        self.tie_blocks()
        self.final = tuple(
            add_transforms(self, transforms.final, mesh, d_model, dtypes, prefix="final_")
        )

    def tie_blocks(self) -> None:
        """Lets blocks share parts of their sublayers, once all blocks exist."""
        for block in self.blocks[1:]:
            for name, layer in block.items():
                layer.tie_to(self.blocks[0][name])

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        size = self._scan_blocks
        # What a loop computes inside cannot be recorded.
        if size is None or call.recorder is not None:
            return self.outputs(x, call)[-1]
        x, call = self._begin(x, call)
        groups = [
            [layer for block in self.blocks[begin : begin + size] for layer in block.values()]
            for begin in range(0, len(self.blocks), size)
        ]
        x = scan_layers(functools.partial(_run_layers, groups[0]), groups, x, call)
        return self._transform(self.final, x, call)

    def outputs(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        """Returns the transformed input, and the outputs of the blocks; the last is the stack's."""
        x, call = self._begin(x, call)
        outputs = [x, *self._run_blocks(x, call)]
        return [*outputs[:-1], self._transform(self.final, outputs[-1], call)]

    def output_entries(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns x {..., length} at the positions that the output has; here all of them."""
        return x

    def _run_blocks(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        outputs = []
        for number, block in enumerate(self.blocks):
            run = functools.partial(_run_layers, block.values())
            x = self._run_block(run, x, self.block_call(number, call))
            outputs.append(x)
        return outputs

    def _run_block(
        self,
        run: Callable[[mtf.Tensor, SequenceCall], mtf.Tensor],
        x: mtf.Tensor,
        call: SequenceCall,
    ) -> mtf.Tensor:
        if self._rematerialise and call.training:
            return recompute(run, x, call, self._recomputed)
        return run(x, call)

    def block_call(self, number: int, call: SequenceCall) -> SequenceCall:
        return call

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        batch = list(batch)
        return [
            {
                name: sublayer.initial_state(batch, memory_length, self.block_call(i, call))
                for name, sublayer in block.items()
            }
            for i, block in enumerate(self.blocks)
        ]

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._with_states(TransformedLayer.step, x, state, call)

    def can_step_in_blocks(self) -> bool:
        return all(layer.can_step_in_blocks() for layer in self.blocks[0].values())

    def can_prefill(self, call: SequenceCall) -> bool:
        return all(layer.can_prefill(call) for block in self.blocks for layer in block.values())

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        return self._with_states(TransformedLayer.prefill, x, state, call)

    def _with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        x, call = self._begin(x, call)
        x, next_state = self._run_blocks_with_states(run, x, state, call)
        return self._transform(self.final, x, call), next_state

    def _run_blocks_with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        next_state = []
        for i, (block, block_state) in enumerate(zip(self.blocks, state, strict=True)):
            block_call = self.block_call(i, call)
            results = {}
            for name, sublayer in block.items():
                x, results[name] = run(sublayer, x, block_state[name], block_call)
            next_state.append(results)
        return x, next_state

    def _begin(self, x: mtf.Tensor, call: SequenceCall) -> tuple[mtf.Tensor, SequenceCall]:
        if self.relative_bias is not None:
            call = with_relative_bias(self.relative_bias, x, call)
        return self._transform(self.initial, x, call), call

    def _transform(self, names: Sequence[str], x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        for name in names:
            x = getattr(self, name)(x, call)
        return x


def _run_layers(layers: Iterable[Sublayer], x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
    for layer in layers:
        x = layer(x, call)
    return x


class LearnedPrompt(mtf.Module):
    """Vectors {prompt_length, d_model} before those of every row; none until `learn`.

    Attributes:
      refusal: the reason why the model cannot have them, or "".
    """

    vectors: mtf.Variable | None = None
    refusal: str = ""

    def __init__(self, mesh: mtf.Mesh, d_model: mtf.Dimension) -> None:
        super().__init__()
        self._mesh, self._d_model = mesh, d_model

    def learn(self, length: int, stddev: float) -> None:
        shape = [mtf.Dimension("prompt_length", length), self._d_model]
        initializer = mtf.initializers.RandomNormal(stddev)
        self.vectors = mtf.Variable(self._mesh, shape, initializer, reduced_dims=())

    @property
    def length(self) -> int:
        return 0 if self.vectors is None else self.vectors.shape[0].size

    def for_rows(self, batch: mtf.ShapeLike, dtype: tf.DType) -> mtf.Tensor:
        """Returns the vectors {batch..., length, d_model} of rows without a text."""
        assert self.vectors is not None
        vectors = mtf.rename_dimension(self.vectors, self.vectors.shape[0].name, "length")
        return mtf.broadcast(
            mtf.cast(vectors, dtype), [*mtf.convert_to_shape(batch), *vectors.shape]
        )

    def before(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns {..., length, d_model}, longer by the prompt, for x of such a shape."""
        if self.vectors is None:
            return x
        return mtf.concat([self.for_rows(x.shape.dims[:-2], x.dtype), x], "length")

    def before_ids(self, ids: mtf.Tensor, number: int = 1) -> mtf.Tensor:
        """Returns ids {..., length} after an id for every vector, by default not padding."""
        if self.vectors is None:
            return ids
        shape = ids.shape.resize_dimension("length", self.length)
        return mtf.concat([mtf.constant(ids.mesh, number, shape, ids.dtype), ids], "length")

    def before_positions(self, positions: mtf.Tensor | None) -> mtf.Tensor | None:
        """Returns the positions {..., length} in texts that begin with the prompt."""
        if positions is None or self.vectors is None:
            return positions
        shape = positions.shape.resize_dimension("length", self.length)
        first = mtf.range(positions.mesh, mtf.Dimension("length", self.length))
        return mtf.concat([mtf.broadcast(first, shape), positions + self.length], "length")

    def after(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the part of {..., length, ...} that belongs to the text."""
        if self.vectors is None:
            return x
        size = x.shape.get_dim_by_name("length").size - self.length
        return mtf.slice(x, self.length, size, "length")
