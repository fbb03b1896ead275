from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.model.layers import SourceStack

_SEPARABLE = "separable_conv1d/depthwise_conv_hack/depthwise_dense_0"
# Placeholders in the table: ends of our paths, and of the original's names.
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
}
# Our class, the end of our path, the original's class and name.
_TABLE = rf"""
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
"""  # noqa: E501 - a table


def _table_rows() -> Iterator[tuple[str, str, str]]:
    for cls, ours, theirs in (row.split() for row in _TABLE.strip().splitlines()):
        form = next((form for form in _FORMS if form in ours), "<>")
        for end, name in _FORMS.get(form, [("", "")]):
            yield ours.replace(form, end) + "$", theirs.replace(form, name), cls


_BLOCK = "block_000/layer_000"
_OF_EVERY_SUBLAYER = {"transformer.RMSNorm", "transformer.LayerNorm"}


@dataclasses.dataclass(frozen=True)
class _Kind:
    """`pattern` matches our paths behind the stack's name; `examples` are the original's endings.

    `classes` are ours with such variables, all if empty. Attention has them only with the value of
    `shared_kv`, unless that is None.
    """

    pattern: str
    examples: Sequence[str]
    classes: Collection[str] = ()
    in_stack: bool = True
    shared_kv: bool | None = None


# Classes of the original by our sublayers.
_ATTENTIONS = {
    "SelfAttention": "SelfAttention",
    "LocalSelfAttention": "LocalSelfAttention",
    "EncoderDecoderAttention": "EncDecAttention",
}
_PROJECTIONS = {"query": "q", "key": "k", "value": "v", "output": "o"}
_TALKING_HEADS = {
    "TalkingHeadsSelfAttention": "TalkingHeadsSelfAttention",
    "TalkingHeadsEncoderDecoderAttention": "TalkingHeadsEncDecAttention",
}
_SHARED_KV = {"key": False, "value": False, "key_value": True}
_TALKING_KERNELS = {**_PROJECTIONS, "output": "y", "logits": "logits", "weights": "weights"}
_FEED_FORWARDS = {
    "transformer.FeedForward": ("feed_forward", "DenseReluDense"),
    "transformer.GatedFeedForward": ("gated_feed_forward", "DenseReluDense"),
    "moe.MoE1D": ("moe_1d", "MoE1D"),
    "moe.MoE2D": ("moe_2d", "MoE2D"),
}
# The classes of the original, by ours.
_CLASSES = {
    **{f"transformer.{cls}": theirs for cls, theirs in _ATTENTIONS.items()},
    **{f"zoo.{cls}": theirs for cls, theirs in _TALKING_HEADS.items()},
    **{cls: theirs for cls, (_, theirs) in _FEED_FORWARDS.items()},
}


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_KINDS = [
    _Kind(r"norm/scale$", [f"{_BLOCK}/rms_norm/scale", "rms_norm/scale"], ["transformer.RMSNorm"]),
    *(
        _Kind(f"{ours}$", [f"{_BLOCK}/true_layer_norm/{theirs}"], ["transformer.LayerNorm"])
        for ours, theirs in _FORMS["<norm>"]
    ),
    _Kind(r"_stack/signals/table$", ["layer_embedding"], ["zoo.StepSignals"]),
    *(
        _Kind(
            rf"/halting/unit/{part}$",
            [f"sigmoid_activation_for_pondering/{name}/{part}"],
            ["zoo.Halting"],
        )
        for part, name in (("kernel", "dense"), ("bias", "dense_1"))
    ),
    *(
        _Kind(
            rf"/{_snake_case(cls)}\w*/layer/attention/{ours}$",
            [f"{_BLOCK}/{their_class}/{theirs}"],
            [f"transformer.{cls}"],
            shared_kv=_SHARED_KV.get(ours),
        )
        for cls, their_class in _ATTENTIONS.items()
        for ours, theirs in {**_PROJECTIONS, "key_value": "kv"}.items()
    ),
    *(
        _Kind(
            rf"/{_snake_case(cls)}\w*/layer/attention/{ours}/kernel$",
            [f"{_BLOCK}/{their_class}/{theirs}/kernel"],
            [f"zoo.{cls}"],
        )
        for cls, their_class in _TALKING_HEADS.items()
        for ours, theirs in _TALKING_KERNELS.items()
    ),
    *(
        _Kind(
            rf"/{_snake_case(cls.partition('.')[2])}\w*/layer/attention/",
            [f"{_BLOCK}/{cls.partition('.')[2]}/{name}" for name in names],
            [cls],
        )
        for cls, names in (
            ("zoo.Synthesizer", ("q", "k", "v", "kv", "o", "R", "pi/kernel")),
            ("zoo.ExpertsSelfAttention", ("q", "kv", "o", "wi/kernel", "q_wo/kernel")),
        )
    ),
    *(_Kind(ours, [f"{_BLOCK}/{theirs}"], [cls]) for ours, theirs, cls in _table_rows()),
    *(
        _Kind(rf"/{name}\w*/layer/.*{ours}$", [f"{_BLOCK}/{their_class}/{theirs}/kernel"], [cls])
        for cls, (name, their_class) in _FEED_FORWARDS.items()
        for ours, theirs in ((r"wi(_\d)?/.*kernel", "wi"), ("wo/kernel", "wo"))
    ),
    _Kind(
        r"relative_bias/table$",
        [f"{_BLOCK}/SelfAttention/relative_attention_bias"],
        ["transformer.RelativePositionBias"],
    ),
    _Kind(r"/router/kernel$", [f"{_BLOCK}/MoE1D/switch_gating/kernel"], ["moe.MoE1D"]),
    *(
        _Kind(rf"/{level}_router/kernel$", [f"{_BLOCK}/MoE2D/{level}_gating/kernel"], ["moe.MoE2D"])
        for level in ("outer", "inner")
    ),
    *(
        _Kind(
            rf"embedding/{ours}$",
            [f"shared/embedding{theirs}", f"transformer/embedding{theirs}"],
            [cls],
            in_stack=False,
        )
        for ours, theirs, cls in (
            ("table", "", "transformer.TokenEmbedding"),
            (r"clusters/\d+/table", "_01", "zoo.VocabularyClusters"),
            (r"clusters/\d+/projection/kernel", "_02", "zoo.VocabularyClusters"),
        )
    ),
    _Kind(
        r"position/table$",
        ["shared/positional_embedding", "transformer/positional_embedding"],
        ["transformer.PositionalEmbedding"],
        in_stack=False,
    ),
    _Kind(
        r"softmax/kernel$",
        ["decoder/logits/kernel", "transformer/logits/kernel"],
        ["transformer.TokenSoftmax"],
        in_stack=False,
    ),
]


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
        for kind in _KINDS:
            if not kind.in_stack:
                if kind.classes and not set(kind.classes) & set(self.classes):
                    continue
                prefix = "^" if "softmax" in kind.pattern or "position" in kind.pattern else ""
                is_language_model = len(self.stacks) == 1
                examples = [
                    e for e in kind.examples if e.startswith("transformer/") == is_language_model
                ]
                yield _Variables(prefix + kind.pattern, tuple(examples))
                continue
            for stack in self.stacks:
                yield from _kinds_in(stack, kind)


def _kinds_in(stack: SourceStack, kind: _Kind) -> Iterator[_Variables]:
    classes = {cls.rpartition("/")[2] for cls in stack.parameters}
    if stack.relative_bias:
        classes.add("transformer.RelativePositionBias")
    if kind.classes and not set(kind.classes) & classes:
        return
    shared = {
        parameters.get("shared_kv", False)
        for cls, parameters in stack.parameters.items()
        if cls.endswith("transformer.AttentionHeads")
    }
    if kind.shared_kv is not None and kind.shared_kv not in shared:
        return
    in_block = [x.removeprefix(_BLOCK) for x in kind.examples if x.startswith(_BLOCK)]
    others = [x for x in kind.examples if not x.startswith(_BLOCK)]
    has_names = any(name != f"layer_{i:03d}" for i, name in enumerate(stack.names))
    if not has_names or not in_block:
        examples = tuple(f"{stack.name}/{x}" for x in kind.examples)
        yield _Variables(f"^{stack.path}/.*{kind.pattern}", examples)
        return
    # Filters may name layers.
    layers = list(zip(stack.names, stack.layers, stack.sublayers, strict=True))
    if not set(kind.classes) <= _OF_EVERY_SUBLAYER:
        layers = [x for x in layers if x[1].selector in kind.classes]
    for name, _, sublayer in layers:
        path = rf"{stack.path}/blocks/\d+/{sublayer}/"
        examples = tuple(f"{stack.name}/block_000/{name}{x}" for x in in_block)
        yield _Variables(rf"^(?={path}).*{kind.pattern}", examples, path)
    if not layers:
        # Parts of layers of unlisted classes.
        examples = tuple(
            f"{stack.name}/block_000/{name}{x}"
            for name, layer in zip(stack.names, stack.layers, strict=True)
            for x in in_block
            if _CLASSES.get(layer.selector, x.split("/")[1]) == x.split("/")[1]
        )
        yield _Variables(f"^{stack.path}/.*{kind.pattern}", examples)
    if others:
        examples = tuple(f"{stack.name}/{x}" for x in others)
        yield _Variables(rf"^{stack.path}/final_\w*{kind.pattern}", examples)


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
