from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack

_SEPARABLE = "separable_conv1d/depthwise_conv_hack/depthwise_dense_0"
# Placeholders in the tables: parts of our paths, and of the original's names.
_FORMS = {
    "<part>": [(part, part) for part in ("kernel", "bias")],
    "<norm>": [
        (f"norm/{part}", f"layer_prepostprocess/layer_norm/layer_norm_{part}")
        for part in ("scale", "bias")
    ],
    "<separable>": [
        (r"filters/taps/\d+", f"{_SEPARABLE}/kernel"),
        ("bias", f"{_SEPARABLE}/bias"),
        *((f"pointwise/{x}", f"separable_conv1d/pointwise_dense/{x}") for x in ("kernel", "bias")),
    ],
    "<attention>": [
        *(("query", "q"), ("key", "k"), ("value", "v"), ("output", "o"), ("key_value", "kv"))
    ],
    "<talking>": [
        *(("query", "q"), ("key", "k"), ("value", "v"), ("output", "y")),
        *(("logits", "logits"), ("weights", "weights")),
    ],
    "<dense>": [(r"wi(_\d)?/.*kernel", "wi"), ("wo/kernel", "wo")],
}
# Our class, the end of our path, and examples of the original's names after those of the stack,
# block and layer; with a slash, after that of the stack.
_IN_STACKS = rf"""
transformer.RMSNorm norm/scale rms_norm/scale /rms_norm/scale
transformer.LayerNorm <norm> true_layer_norm/<norm>
zoo.StepSignals _stack/signals/table /layer_embedding
zoo.Halting /halting/unit/kernel /sigmoid_activation_for_pondering/dense/kernel
zoo.Halting /halting/unit/bias /sigmoid_activation_for_pondering/dense_1/bias
transformer.SelfAttention /self_attention\w*/layer/attention/<attention> SelfAttention/<attention>
transformer.LocalSelfAttention /local_self_attention\w*/layer/attention/<attention> LocalSelfAttention/<attention>
transformer.EncoderDecoderAttention /encoder_decoder_attention\w*/layer/attention/<attention> EncDecAttention/<attention>
zoo.TalkingHeadsSelfAttention /talking_heads_self_attention\w*/layer/attention/<talking>/kernel TalkingHeadsSelfAttention/<talking>/kernel
zoo.TalkingHeadsEncoderDecoderAttention /talking_heads_encoder_decoder_attention\w*/layer/attention/<talking>/kernel TalkingHeadsEncDecAttention/<talking>/kernel
zoo.Synthesizer /synthesizer\w*/layer/attention/ Synthesizer/q Synthesizer/k Synthesizer/v Synthesizer/kv Synthesizer/o Synthesizer/R Synthesizer/pi/kernel
zoo.ExpertsSelfAttention /experts_self_attention\w*/layer/attention/ ExpertsSelfAttention/q ExpertsSelfAttention/kv ExpertsSelfAttention/o ExpertsSelfAttention/wi/kernel ExpertsSelfAttention/q_wo/kernel
zoo.ProductKeyMemory /product_key_memory\w*/layer/keys ProductKeyValueMemory/keys
zoo.ProductKeyMemory /product_key_memory\w*/layer/values ProductKeyValueMemory/values
zoo.ProductKeyMemory /product_key_memory\w*/layer/query/<part> ProductKeyValueMemory/query/<part>
zoo.ProductKeyMemory /product_key_memory\w*/layer/<norm> ProductKeyValueMemory/<norm>
zoo.TransparentDecoder mixture_of_outputs TransparentEncDecAttention/w
zoo.Convolution /convolution\w*/layer/kernel Conv1DLayer/conv2d/kernel
zoo.TrainedFilters filters/taps/\d+ SeparableConv1DLayer/{_SEPARABLE}/kernel
zoo.LightweightFilters filters/taps/\d+ LightweightConv1DLocalAttn/lightwt_depthwise_dense_0/kernel
zoo.DynamicFilters filters/taps/\d+/<part> DynamicConv1DLocalAttn/dyn_conv_depthwise_dense_0/<part>
zoo.DepthwiseConvolution convolution\w*/(layer/)?bias SeparableConv1DLayer/{_SEPARABLE}/bias
zoo.DepthwiseConvolution /pointwise/<part> SeparableConv1DLayer/separable_conv1d/pointwise_dense/<part>
zoo.GatedConvolution /input/factors/\d/<part> LocalConvAttnBlock/local_conv_inp_0/<part>
zoo.GatedConvolution /gated_convolution\w*/layer/output/<part> LocalConvAttnBlock/local_conv_attn_op_projection/<part>
zoo.GatedLinearUnit /gated_linear_unit\w*/layer/.*<part> GatedLinearUnitLayer/glu_0/<part>
zoo.EncoderConvolutions /encoder_convolutions\w*/layer/left/kernel EncoderConvolutionalLayer/conv1x1/dense/kernel
zoo.EncoderConvolutions /encoder_convolutions\w*/layer/right/kernel EncoderConvolutionalLayer/conv3x1/conv2d/kernel
zoo.EncoderConvolutions /encoder_convolutions\w*/layer/output/<separable> EncoderConvolutionalLayer/sep_conv9x1/<separable>
zoo.EncoderConvolutions /encoder_convolutions\w*/layer/<norm> EncoderConvolutionalLayer/<norm>
zoo.DecoderConvolutions /decoder_convolutions\w*/layer/left/<separable> DecoderConvolutionalLayer/sep_conv11x1/<separable>
zoo.DecoderConvolutions /decoder_convolutions\w*/layer/right/<separable> DecoderConvolutionalLayer/sep_conv7x1_1/<separable>
zoo.DecoderConvolutions /decoder_convolutions\w*/layer/output/<separable> DecoderConvolutionalLayer/sep_conv7x1_2/<separable>
zoo.DecoderConvolutions /decoder_convolutions\w*/layer/<norm> DecoderConvolutionalLayer/<norm>
transformer.FeedForward /feed_forward\w*/layer/.*<dense> DenseReluDense/<dense>/kernel
transformer.GatedFeedForward /gated_feed_forward\w*/layer/.*<dense> DenseReluDense/<dense>/kernel
moe.MoE1D /moe_1d\w*/layer/.*<dense> MoE1D/<dense>/kernel
moe.MoE2D /moe_2d\w*/layer/.*<dense> MoE2D/<dense>/kernel
transformer.RelativePositionBias relative_bias/table SelfAttention/relative_attention_bias
moe.MoE1D /router/kernel MoE1D/switch_gating/kernel
moe.MoE2D /outer_router/kernel MoE2D/outer_gating/kernel
moe.MoE2D /inner_router/kernel MoE2D/inner_gating/kernel
"""  # noqa: E501 - a table
# Our class and path, and names in encoder-decoders and in language models.
_OUTSIDE = r"""
transformer.TokenEmbedding embedding/table shared/embedding transformer/embedding
zoo.VocabularyClusters embedding/clusters/\d+/table shared/embedding_01 transformer/embedding_01
zoo.VocabularyClusters embedding/clusters/\d+/projection/kernel shared/embedding_02 transformer/embedding_02
transformer.PositionalEmbedding ^position/table shared/positional_embedding transformer/positional_embedding
transformer.TokenSoftmax ^softmax/kernel decoder/logits/kernel transformer/logits/kernel
"""  # noqa: E501 - a table


class _Row(NamedTuple):
    cls: str
    pattern: str
    names: Sequence[str]


def _rows(table: str) -> Iterator[_Row]:
    for cls, ours, *names in (row.split() for row in table.strip().splitlines()):
        form = next((form for form in _FORMS if form in ours), "<>")
        for end, name in _FORMS.get(form, [("", "")]):
            pattern = ours.replace(form, end)
            # All variables below a path that ends with a slash.
            pattern += "" if pattern.endswith("/") else "$"
            yield _Row(cls, pattern, [x.replace(form, name) for x in names])


_STACK_ROWS, _OUTSIDE_ROWS = list(_rows(_IN_STACKS)), list(_rows(_OUTSIDE))
# Attention has these variables only with this value of `shared_kv`.
_SHARED_KV = {"attention/key$": False, "attention/value$": False, "attention/key_value$": True}
_OF_EVERY_SUBLAYER = ("transformer.RMSNorm", "transformer.LayerNorm")
# The original's classes of layers that are one class of ours.
_CLASSES = {
    row.cls: row.names[0].partition("/")[0]
    for row in _STACK_ROWS
    if row.cls.startswith(("transformer.", "moe.", "zoo.TalkingHeads"))
}


class _Variables(NamedTuple):
    """Variables of one kind: a pattern of our paths, and example names in the original.

    `layer` is a pattern of all paths of their layer, or "".
    """

    pattern: str
    examples: Sequence[str]
    layer: str = ""


@dataclasses.dataclass(frozen=True)
class VariablePatterns:
    """Translates patterns for `classes` outside of stacks, such as PositionalEmbedding."""

    classes: Collection[str]
    stacks: Sequence[SourceStack]

    def translate(
        self, source: SourceConfig, target: str, patterns: Sequence[str], *, is_text: bool = False
    ) -> list[str]:
        """Returns patterns of our paths, or refuses `target`."""
        if not all(isinstance(pattern, str) for pattern in patterns):
            source.refuse(target, "not a list of texts")
            return []
        return _patterns(self._matches(source, target, patterns, is_text=is_text))

    def complement(self, source: SourceConfig, target: str, pattern: str) -> list[str]:
        """Returns patterns of all paths that the original's pattern does not match."""
        selected = self._matches(source, target, [pattern], is_text=False)
        return _patterns({kind: not is_selected for kind, is_selected in selected.items()})

    def _matches(
        self, source: SourceConfig, target: str, patterns: Sequence[str], *, is_text: bool
    ) -> dict[_Variables, bool]:
        """Returns whether the patterns match the variables of each kind."""
        expressions = [re.escape(p) if is_text else p for p in patterns]
        selected = {}
        try:
            for kind in self._kinds():
                found = {any(re.search(e, name) for e in expressions) for name in kind.examples}
                if len(found) != 1:
                    source.refuse(target, "selects some variables of a kind only")
                selected[kind] = found == {True}
        except re.error as error:
            source.refuse(target, f"not a regular expression: {error}")
        return selected

    def _kinds(self) -> Iterator[_Variables]:
        for row in _STACK_ROWS:
            for stack in self.stacks:
                yield from _kinds_in(stack, row)
        is_language_model = len(self.stacks) == 1
        for cls, pattern, names in _OUTSIDE_ROWS:
            if cls in self.classes:
                yield _Variables(pattern, (names[is_language_model],))


def _kinds_in(stack: SourceStack, row: _Row) -> Iterator[_Variables]:
    classes = {cls.rpartition("/")[2] for cls in stack.parameters}
    if stack.relative_bias:
        classes.add("transformer.RelativePositionBias")
    shared = {
        parameters.get("shared_kv", False)
        for cls, parameters in stack.parameters.items()
        if cls.endswith("transformer.AttentionHeads")
    }
    shared_kv = next((x for end, x in _SHARED_KV.items() if row.pattern.endswith(end)), None)
    if row.cls not in classes or (shared_kv is not None and shared_kv not in shared):
        return
    in_layer = [x for x in row.names if x[0] != "/"]
    others = tuple(stack.name + x for x in row.names if x[0] == "/")
    if all(name == f"layer_{i:03d}" for i, name in enumerate(stack.names)) or not in_layer:
        examples = (f"{stack.name}/block_000/layer_000/{x}" for x in in_layer)
        yield _Variables(f"^{stack.path}/.*{row.pattern}", (*examples, *others))
        return
    # Filters may name layers.
    layers = list(zip(stack.names, stack.layers, stack.sublayers, strict=True))
    if row.cls not in _OF_EVERY_SUBLAYER:
        layers = [x for x in layers if x[1].selector == row.cls]
    for name, _, sublayer in layers:
        path = rf"{stack.path}/blocks/\d+/{sublayer}/"
        examples = (f"{stack.name}/block_000/{name}/{x}" for x in in_layer)
        yield _Variables(rf"^(?={path}).*{row.pattern}", tuple(examples), path)
    if not layers:
        # Parts of layers of unlisted classes.
        examples = (
            f"{stack.name}/block_000/{name}/{x}"
            for name, layer in zip(stack.names, stack.layers, strict=True)
            for x in in_layer
            if _CLASSES.get(layer.selector, x.split("/")[0]) == x.split("/")[0]
        )
        yield _Variables(f"^{stack.path}/.*{row.pattern}", tuple(examples))
    if others:
        yield _Variables(rf"^{stack.path}/final_\w*{row.pattern}", others)


def _patterns(selected: Mapping[_Variables, bool]) -> list[str]:
    """Returns the selected patterns, with one for a wholly selected layer."""
    whole = {kind.layer for kind in selected} - {
        kind.layer for kind, is_selected in selected.items() if not is_selected
    }
    patterns = [
        f"^{kind.layer}" if kind.layer and kind.layer in whole else kind.pattern
        for kind, is_selected in selected.items()
        if is_selected
    ]
    return list(dict.fromkeys(patterns))
