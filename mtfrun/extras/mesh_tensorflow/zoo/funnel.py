"""Funnel Transformers: encoders that pool positions between their blocks."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_choice, check_range
from mtfrun.layers import NO_BIAS, mask_segments
from mtfrun.models.transformer.attention import RelativeBiasClass, SelfAttention, with_relative_bias
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import (
    StackTransforms,
    SublayerClass,
    TransformedLayer,
)
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall

_WINDOW = "pooled_positions"
# The reduction of a window, and the value that masks other documents.
_KINDS: dict[str, tuple[Callable[..., mtf.Tensor], float]] = {
    "mean": (mtf.reduce_sum, 0.0),
    "max": (mtf.reduce_max, -1e9),
    "min": (mtf.reduce_min, 1e9),
}


@dataclasses.dataclass(frozen=True)
class Funnel:
    """The parts of a `FunnelStack`, between which positions are pooled.

    Attributes:
      num_layers: the number of blocks in each part.
      repeats: how often the blocks of each part are applied; None for once.
      pool_size: the number of positions in a window.
      kind: "mean", "max" or "min".
      across_documents: whether whole windows are pooled and padding sees padding, as in Mesh
        TensorFlow. Otherwise only positions of the same document as the window's first count.
    """

    num_layers: Sequence[int] = (4, 4, 4)
    repeats: Sequence[int] | None = None
    pool_size: int = 2
    kind: str = "mean"
    across_documents: bool = False

    def __post_init__(self) -> None:
        for number in (*self.num_layers, *(self.repeats or ()), self.pool_size):
            check_range("a number of Funnel", number, COUNT)
        check_choice("Funnel.kind", self.kind, tuple(_KINDS))
        if self.repeats is not None and len(self.repeats) != len(self.num_layers):
            raise InputError(
                f"Funnel.repeats={list(self.repeats)} needs as many numbers as num_layers="
                f"{list(self.num_layers)}: one for each part"
            )

    @property
    def divisor(self) -> int:
        """The factor by which the stack shortens sequences."""
        return int(self.pool_size ** (len(self.num_layers) - 1))

    def first_entries(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the first entry of each window of the lengths of x."""
        for dim in x.shape:
            if dim.name in ("length", "memory_length"):
                x = mtf.stride_tensor_1d(x, dim, self.pool_size)
        return x

    def pool(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns {..., length / pool_size, d_model} for x {..., length, d_model}."""
        documents = call.nonpadding if call.segments is None else call.segments
        windows = self._windows(x)
        window = windows.shape.get_dim_by_name(_WINDOW)
        shape = windows.shape - window
        reduce_fn, other = _KINDS[self.kind]
        count: float | mtf.Tensor = float(self.pool_size)
        if documents is not None and not self.across_documents:
            document_windows = self._windows(documents)
            first = self.first_entries(documents)
            is_first = mtf.equal(document_windows, first, output_shape=document_windows.shape)
            windows = mtf.where(is_first, windows, other, output_shape=windows.shape)
            count = mtf.reduce_sum(mtf.cast(is_first, x.dtype), output_shape=first.shape)
        pooled = reduce_fn(windows, output_shape=shape)
        return pooled / count if self.kind == "mean" else pooled

    def shorten(self, call: SequenceCall) -> SequenceCall:
        """Returns the call after pooling: each position has its window's first entries."""

        def first(x: mtf.Tensor | None) -> mtf.Tensor | None:
            return None if x is None else self.first_entries(x)

        positions = first(call.text_positions)
        return dataclasses.replace(
            call,
            self_attention_bias=call.self_attention_bias.map(self.first_entries),
            nonpadding=first(call.nonpadding),
            segments=first(call.segments),
            text_positions=None if positions is None else positions // self.pool_size,
        )

    def _windows(self, x: mtf.Tensor) -> mtf.Tensor:
        length = x.shape.get_dim_by_name("length")
        shorter = mtf.Dimension("length", length.size // self.pool_size)
        window = mtf.Dimension(_WINDOW, self.pool_size)
        return mtf.replace_dimensions(x, length, [shorter, window])


class FunnelStack(Stack):
    """An encoder that returns fewer positions; Dai et al. 2020, arXiv:2006.03236, section 2.2.

    As in Mesh TensorFlow, every part after the first pools the output of its first sublayer with
    the residual; the paper pools only queries. Relative biases count pooled positions. It has no
    loop over blocks (`scan_blocks`).
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        funnel: Funnel = Funnel(),
        layers: Sequence[SublayerClass] = (SelfAttention, FeedForward),
        transforms: StackTransforms = StackTransforms(),
        relative_bias: RelativeBiasClass | None = None,
        rematerialise: bool | Sequence[str] = False,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            num_layers=sum(funnel.num_layers),
            layers=layers,
            transforms=transforms,
            relative_bias=relative_bias,
            rematerialise=rematerialise,
        )
        self._funnel = funnel

    def output_entries(self, x: mtf.Tensor) -> mtf.Tensor:
        for _ in self._funnel.num_layers[1:]:
            x = self._funnel.first_entries(x)
        return x

    def outputs(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        """Returns the transformed input, the outputs of the blocks, and the stack's."""
        call = self._checked_call(x, call)
        x = self._transform(self.initial, x, call)
        outputs, blocks = [x], iter(self.blocks)
        repeats = self._funnel.repeats or [1] * len(self._funnel.num_layers)
        parts = zip(self._funnel.num_layers, repeats, strict=True)
        for part, (num_layers, times) in enumerate(parts):
            for layer, block in enumerate(itertools.islice(blocks, num_layers)):
                for time in range(times):
                    pools = part > 0 and layer == time == 0
                    run = functools.partial(self._run_layers, list(block.values()), pools=pools)
                    x = self._run_block(run, x, call.for_step(time) if time else call)
                    call = self._funnel.shorten(call) if pools else call
                    outputs.append(x)
        return [*outputs[:-1], self._transform(self.final, outputs[-1], call)]

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        raise InputError(_NO_DECODER)

    def _checked_call(self, x: mtf.Tensor, call: SequenceCall) -> SequenceCall:
        if not call.bidirectional:
            raise InputError(_NO_DECODER)
        length = x.shape.get_dim_by_name("length")
        if length.size % self._funnel.divisor:
            raise InputError(
                f"FunnelStack: the length of inputs, {length.size}, must be a multiple of "
                f"{self._funnel.divisor}"
            )
        if self._funnel.across_documents and call.segments is None and call.nonpadding is not None:
            documents = mtf.cast(call.nonpadding, tf.int32)
            call = dataclasses.replace(call, self_attention_bias=mask_segments(NO_BIAS, documents))
        return call

    def _run_layers(
        self, layers: Sequence[TransformedLayer], x: mtf.Tensor, call: SequenceCall, *, pools: bool
    ) -> mtf.Tensor:
        for number, layer in enumerate(layers):
            bias = self.relative_bias
            x = layer(x, call if bias is None else with_relative_bias(bias, x, call))
            if pools and number == 0:
                x, call = self._funnel.pool(x, call), self._funnel.shorten(call)
        return x


_NO_DECODER = (
    "FunnelStack cannot decode, since pooled positions see later ones: use it as an encoder"
)
