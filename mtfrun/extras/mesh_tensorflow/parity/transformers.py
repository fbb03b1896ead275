"""Transformers with quirks of Mesh TensorFlow."""

from __future__ import annotations

from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.vision import ImageSize
from mtfrun.layers import Call, Embedding, Positions, RelativePositionBias
from mtfrun.models.transformer import DecoderOnly, EncoderDecoder, SequenceCall, Stack, Sublayer
from mtfrun.models.transformer.attention import CachedSelfAttention


class PaddedPrefixDecoderOnly(DecoderOnly):
    """A `DecoderOnly` with padding as part of the prefix.

    Mesh TensorFlow's language models do not mask padding in unpacked rows, and count all ids after
    an even number of ends as inputs, so that every position sees the padding.
    """

    prefix_has_padding: ClassVar[bool] = True


class SharedLayersEncoderDecoder(EncoderDecoder):
    """An `EncoderDecoder` with shared stacks, except for encoder-decoder attention.

    Shares sublayers of one name, transforms and relative bias: Raffel et al. 2020,
    arXiv:1910.10683, section 3.2.2, and T5's `bi_v1_shared`. Stacks need equal numbers of blocks.
    """

    def tie_stacks(self) -> None:
        share_layers(self.decoder_stack, self.encoder_stack)


class TiedBiasStack(Stack):
    """A `Stack` that shares the relative bias among layers with equal numbers of heads.

    Mesh TensorFlow's `bias_shared` for layers with different numbers of heads, such as T5's
    `t5.1.n4w10`. Set the `relative_bias` of each layer, not of the stack.
    """

    def tie_blocks(self) -> None:
        super().tie_blocks()
        first: dict[mtf.Shape, RelativePositionBias] = {}
        for layer in (x.layer for block in self.blocks for x in block.values()):
            if isinstance(layer, CachedSelfAttention):
                bias = layer.relative_bias
                if isinstance(bias, RelativePositionBias):
                    layer.relative_bias = first.setdefault(bias.table.shape, bias)


class SharedLayersStack(Stack):
    """A `Stack` that shares the layers of one class, and one norm among all layers.

    Mesh TensorFlow since 0.1.0 merges variables of one name, and Tensor2Tensor's `mtf_transformer2`
    does not name its layers. Dropout differs between blocks. There is no loop over blocks
    (`scan_blocks`).
    """

    can_scan: ClassVar[bool] = False

    def tie_blocks(self) -> None:
        super().tie_blocks()
        layers = [layer for block in self.blocks for layer in block.values()]
        first: dict[type[Sublayer], Sublayer] = {}
        for layer in layers:
            for name in layer.names:
                transform = getattr(layers[0], name)
                is_module = isinstance(transform, mtf.Module) and transform is not layers[0].layer
                if is_module and transform.named_variables():  # dropout has none
                    setattr(layer, name, transform)
            layer.layer = first.setdefault(type(layer.layer), layer.layer)

    def block_call(self, number: int, call: SequenceCall) -> SequenceCall:
        return call.for_step(number)


def share_layers(stack: Stack, other: Stack) -> None:
    """Gives `stack` the sublayers of one name, transforms and relative bias of `other`."""
    if len(stack.blocks) != len(other.blocks):
        raise InputError(
            f"stacks of {len(stack.blocks)} and {len(other.blocks)} blocks cannot share layers: "
            "set equal Stack.num_layers"
        )
    for block, shared in zip(stack.blocks, other.blocks, strict=True):
        block.update({name: shared[name] for name in block if name in shared})
    for name in (*stack.initial, *stack.final):
        setattr(stack, name, getattr(other, name, getattr(stack, name)))
    if stack.relative_bias is not None and other.relative_bias is not None:
        stack.relative_bias = other.relative_bias


class RowAndColumnPositions(Positions):
    """The sum of trained embeddings of a value's row and of its place in the row.

    As in Tensor2Tensor's image transformer, each channel is a place, and places beyond the number
    of rows, which images of several channels have, have no embedding.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        max_length: int,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        image: ImageSize,
    ) -> None:
        super().__init__(max_length)
        self._mesh, self._image = mesh, image
        self.rows, self.cols = (
            Embedding(mesh, mtf.Dimension(name, image.rows), d_model, dtypes)
            for name in ("rows", "cols")
        )

    def __call__(self, positions: mtf.Tensor, call: Call) -> mtf.Tensor:
        row, place = positions // self._image.row_length, positions % self._image.row_length
        last = self._image.rows - 1
        columns = self.cols(mtf.minimum(place, last), call)
        has_vector = mtf.cast(mtf.less_equal(place, last), columns.dtype)
        return self.rows(row, call) + columns * has_vector

    def first(self, length: mtf.Dimension) -> mtf.Tensor:
        self.check_length(length)
        return self(mtf.range(self._mesh, length), Call())
