"""Transformers with the oddities of Mesh TensorFlow's."""

from __future__ import annotations

from typing import ClassVar

from mtfrun.models.transformer import DecoderOnly, EncoderDecoder, Stack


class PaddedPrefixDecoderOnly(DecoderOnly):
    """`DecoderOnly` whose prefix has the padding behind the last target.

    Mesh TensorFlow's language models do not mask padding in rows that are not packed, and take all
    ids after an even number of ends for inputs: every position sees the padding.
    """

    prefix_has_padding: ClassVar[bool] = True


class SharedLayersEncoderDecoder(EncoderDecoder):
    """`EncoderDecoder` whose stacks have the same variables, but for the attention to the encoder.

    Sublayers of one name, transforms and relative bias are shared: Raffel et al. 2020,
    arXiv:1910.10683, section 3.2.2, and T5's `bi_v1_shared`. Both stacks need equally many blocks.
    """

    shares_layers: ClassVar[bool] = True


class TiedBiasStack(Stack):
    """`Stack` whose layers with equally many heads have one relative bias, the first layer's.

    Mesh TensorFlow's `bias_shared` in a stack whose layers differ in their number of heads, such as
    T5's `t5.1.n4w10`. Each layer has a `relative_bias`, and the stack none.
    """

    ties_relative_biases: ClassVar[bool] = True
