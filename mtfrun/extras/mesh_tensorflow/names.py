"""Names of variables in the checkpoints of Mesh TensorFlow, T5 and Tensor2Tensor.

T5 was trained with Mesh TensorFlow's transformer package; Tensor2Tensor's MtfTransformer had two
generations of names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from mtfrun.checkpoints.names import Source

# Slots of Mesh TensorFlow's optimizers: Adafactor (mean squares, whole or of rows and columns, and
# momentum), AdamWeightDecay, Momentum. SGD has no slots.
_SLOT = re.compile(r"(?:_slot_(?:v|vr|vc|m)|/adam_[mv]|_momentum_v)$")
# A layer of a `Parallel`.
_PARALLEL = re.compile(r"(.*/layer)/layers/(\w+)/layer(/.*)")

# Abbreviations in the table.
_WORDS = {
    "STACK": r"(?P<stack>encoder|decoder)_stack",
    "BLOCK": r"STACK/blocks/<block>/(?P<sublayer>\w+)",
    "LAYER": r"BLOCK/layer",
    "MIXTURE": r"LAYER/(?:attention/mixture/)?",
    "CONVOLUTION": r"LAYER(?:/convolution)?",
    "PROJECTION": r"(?P<projection>query|key|value|output)",
    "PART": r"(?P<part>kernel|scale|bias)",
    "MTF": r"{place}/{cls}",
    "T2T_2018": r"transformer/{stack}/layer_{block}",
    "T2T_HEAD": r"transformer/{stack}/\w+_{flat}",
    "T2T_IMAGES": "decoder_layer_{block}",
    "EMBEDDING": r"{shared}/embedding",
    "RMS_NORM": r"(?:rms_norm|layer_norm)/scale",
    "LAYER_NORM": r"(?:true_layer_norm/|)layer_prepostprocess/layer_norm/layer_norm_{part}",
    "DEPTHWISE": r"separable_conv1d/depthwise_conv_hack/depthwise_dense",
    "POINTWISE": r"separable_conv1d/pointwise_dense/{part}",
    "GATE": r"switch_|switch_max_|top_2_|top_n_|ntlb_|expert_selection_",
}

# Our paths = names in checkpoints, which follow in the order in which they are looked for: regular
# expressions, in which <name> is a number. A name may have the groups of its path in braces, an
# [entry] and dims. {scope} is a stack, {place} a layer's scope, {cls} its class, {flat} its number
# in the stack.
_TABLE = r"""
embedding/table
    = {shared}/embedding
    = (?:transformer/|)targets_embedding
    = EMBEDDING_embedding_weights
# Clusters of a vocabulary.
embedding/clusters/<cluster>/table = EMBEDDING_{cluster}(?:1|)
embedding/clusters/0/table = EMBEDDING1
embedding/clusters/<cluster>/projection/kernel = EMBEDDING_{cluster}2
embedding/clusters/0/projection/kernel = EMBEDDING2
# Mixtures of softmaxes.
softmax/contexts/kernel = EMBEDDING_context_weights components _d_model d_model
softmax/contexts/bias = EMBEDDING_context_weights_bias
softmax/mixture/kernel = EMBEDDING_mixture_weights components d_model
softmax/gate/kernel = EMBEDDING_prior_weights sigmoids gate_size d_model
softmax/gate/bias = EMBEDDING_prior_weights_bias
softmax/shared_gate/kernel = EMBEDDING_prior_gates_vector sigmoids d_model
softmax/frequent_vectors = EMBEDDING_prior_vocab_vector
softmax/frequent_bias = EMBEDDING_prior_bias

inputs_embedding/table
    = encoder/embedding
    = transformer/inputs_embedding
position/table = {shared}/positional_embedding
position/(?P<axis>rows|cols)/table = positional_emb_{axis}
softmax/kernel
    = {decoder}/logits/kernel
    = transformer/softmax vocab d_model
softmax/PART = logits/{part}
STACK/relative_bias/table = {first_block}/(?:{attention}|\w+)/relative_attention_bias
STACK/final_norm/scale = {scope}/(?:|final_)RMS_NORM
STACK/final_norm/PART = {scope}/LAYER_NORM
STACK/final_norm/scale = transformer/{stack}/layer_norm_scale [-1]
STACK/final_norm/PART = final_layer_norm/layer_norm/layer_norm_{part}
BLOCK/norm/scale = {place}/RMS_NORM
BLOCK/norm/PART = {place}/LAYER_NORM
BLOCK/norm/scale = transformer/{stack}/layer_norm_scale [{flat}]
BLOCK/norm/PART = T2T_IMAGES/layer_norm_{role}/layer_norm/layer_norm_{part}
LAYER/attention/PROJECTION = MTF/{projection[0]}
LAYER/(?:attention/|parameters/w)(?P<projection>q(?:uery)?|k(?:ey)?|v(?:alue)?|o(?:utput)?)
    = T2T_2018/{kind}/qkvo [{number}] heads d_model d_kv
    = T2T_HEAD/\w+/qkvo [{number}] heads d_model d_kv
    = T2T_IMAGES/self_att/qkvo [{number}] heads d_model d_kv
STACK/mixture_of_outputs = {first_block}/TransparentEncDecAttention/w
# Universal Transformers.
STACK/signals/table = {scope}/layer_embedding
STACK/halting/unit/PART = {scope}/sigmoid_activation_for_pondering/dense(?:|_1)/{part}
# Talking heads. The term of the query, if there is one, is number 0.
LAYER/attention/(?P<projection>query|key|value)/kernel = MTF/{projection[0]}/kernel
LAYER/attention/output/kernel = MTF/y/kernel
LAYER/attention/(?P<map>logits|weights)/kernel = MTF/{map}/kernel
LAYER/attention/(?P<map>logits|weights)/query_map/kernel = MTF/{map}/{map}_dynamic_0/kernel
LAYER/attention/(?P<map>logits|weights)/memory_map/kernel
    = MTF/{map}/{map}_dynamic_1/kernel
    = MTF/{map}/{map}_dynamic_0/kernel
# Synthesizer.
LAYER/attention/key_value = MTF/kv
LAYER/attention/table = MTF/R
LAYER/attention/factors/0 = MTF/R1
LAYER/attention/factors/1 = MTF/R2
LAYER/attention/dense/kernel = MTF/pi/kernel
LAYER/attention/gate = MTF/alpha
# Experts in attention.
LAYER/attention/linear/query = MTF/q
LAYER/attention/linear/key_value = MTF/kv
LAYER/attention/mixture/experts/wo/query/kernel = MTF/q_wo/kernel
LAYER/attention/mixture/experts/wo/key_value/kernel = MTF/k_wo/kernel
# Memories of product keys.
LAYER/(?P<parameter>keys|values|query/kernel|query/bias) = MTF/{parameter}
LAYER/norm/PART = MTF/layer_prepostprocess/layer_norm/layer_norm_{part}
# Convolutions over positions.
LAYER/kernel = MTF/conv2d/kernel
CONVOLUTION/filters/taps/<tap>
    = MTF/DEPTHWISE_{tap}/kernel
    = MTF/lightwt_depthwise_dense_{tap}/kernel
CONVOLUTION/filters/taps/<tap>/PART = MTF/dyn_conv_depthwise_dense_{tap}/{part}
CONVOLUTION/bias = MTF/DEPTHWISE_0/bias
CONVOLUTION/pointwise/PART = MTF/POINTWISE
LAYER/input/factors/<factor>/PART = MTF/local_conv_inp_{factor}/{part}
LAYER/output/PART = MTF/local_conv_attn_op_projection/{part}
# The Evolved Transformer.
LAYER/unit/factors/<factor>/PART = MTF/glu_{factor}/{part}
LAYER/left/kernel = MTF/conv1x1/dense/kernel
LAYER/right/kernel = MTF/conv3x1/conv2d/kernel
LAYER/left/filters/taps/<tap> = MTF/sep_conv11x1/DEPTHWISE_{tap}/kernel
LAYER/left/bias = MTF/sep_conv11x1/DEPTHWISE_0/bias
LAYER/left/pointwise/PART = MTF/sep_conv11x1/POINTWISE
LAYER/right/filters/taps/<tap> = MTF/sep_conv7x1_1/DEPTHWISE_{tap}/kernel
LAYER/right/bias = MTF/sep_conv7x1_1/DEPTHWISE_0/bias
LAYER/right/pointwise/PART = MTF/sep_conv7x1_1/POINTWISE
LAYER/output/filters/taps/<tap> = MTF/sep_conv(?:9x1|7x1_2)/DEPTHWISE_{tap}/kernel
LAYER/output/bias = MTF/sep_conv(?:9x1|7x1_2)/DEPTHWISE_0/bias
LAYER/output/pointwise/PART = MTF/sep_conv(?:9x1|7x1_2)/POINTWISE
LAYER/relative_bias/table = MTF/relative_attention_bias

LAYER/wi/kernel
    = MTF/wi/kernel
    = T2T_2018/dense_relu_dense/kernel [0] d_model d_ff
    = T2T_HEAD/dense_relu_dense/wi/kernel
LAYER/wo/kernel
    = MTF/wo/kernel
    = T2T_2018/dense_relu_dense/kernel [1] d_model d_ff
    = T2T_HEAD/dense_relu_dense/wo/kernel
LAYER/(?P<parameter>w[io]/(?:kernel|bias)) = T2T_IMAGES/dense_relu_dense/{parameter}
LAYER/(?P<parameter>wi_0/kernel|wi_1/kernel|wi/bias|wo/bias) = MTF/{parameter}
# Mixtures as a layer, and of experts in attention; experts of several layers.
MIXTURErouter/kernel = MTF/(?:GATE|)gating/kernel
MIXTURE(?P<level>outer|inner)_router/kernel = MTF/{level}_gating/kernel
MIXTUREexperts/wi/factors/<factor>/kernel = MTF/(?:|expert_layer_0/)(?:wi|wi_{factor})/kernel
MIXTUREexperts/wo/kernel = MTF/(?:|expert_layer_0/)wo/kernel
LAYER/experts/layers/<number>/wi/factors/<factor>/kernel
    = MTF/expert_layer_{number}/(?:wi|wi_{factor})/kernel
LAYER/experts/layers/<number>/wo/kernel = MTF/expert_layer_{number}/wo/kernel
LAYER/experts/norms/<number>/scale = MTF/expert_layer_{number}/rms_norm/scale
"""


def _spell_out(text: str) -> str:
    words = "|".join(sorted(_WORDS, reverse=True))  # LAYER_NORM before LAYER
    text = re.sub(words, lambda match: _spell_out(_WORDS[match[0]]), text)
    return re.sub(r"(?<!\?P)<(\w+)>", r"(?P<\1>\\d+)", text)


def _parse_table(table: str) -> Iterator[tuple[str, Source]]:
    path = ""
    for line in _spell_out(table).splitlines():
        before, equals, source = line.partition("= ")
        path = before.strip() or path
        if equals:
            (name, entry, dims), *_ = re.findall(r"(\S+)(?: \[(\S+)\])?(?: (.+))?", source)
            yield path, Source(name, entry or None, dims or None)


_ROWS = list(_parse_table(_TABLE))


class StackNames(NamedTuple):
    """The original's names of a stack.

    Attributes:
      scope: a pattern of the stack's scope.
      sublayers: our names of a block's layers, in the original's order.
      place: the scope of a layer in the stack, of the number of its block and its own.
      classes: patterns of the classes of a block's layers.
    """

    scope: str
    sublayers: Sequence[str]
    place: Callable[[int, int], str] = "block_{:03d}/layer_{:03d}".format
    classes: Sequence[str] = ()


def sources_of(
    path: str, paths: Collection[str], stacks: Mapping[str, StackNames] | None = None
) -> Iterator[Source]:
    """Yields where a variable's value may be; `stacks` by side, usual ones by default.

    Without `stacks` the order of `paths` numbers a block's sublayers.
    """
    parallel, inner_scope = _PARALLEL.fullmatch(path), ""
    if parallel:
        whole, layer, inner = parallel.groups()
        layers = [m[2] for p in paths if (m := _PARALLEL.fullmatch(p)) and m[1] == whole]
        number = list(dict.fromkeys(layers)).index(layer)
        # The layers may have scopes in the scope of the class, or all the same; in the
        # Evolved Transformer the scopes have names.
        named = {"encoder_decoder_attention": "enc_dec_attention"}.get(layer, layer)
        path, inner_scope = f"{whole}{inner}", rf"(?:/parallel_layer_{number}|/{named}|)"
    for pattern, source in _ROWS:
        if match := re.fullmatch(pattern, path):
            values = _template_values(match.groupdict(), paths, stacks)
            values["cls"] = f"{values['cls']}{inner_scope}"
            entry = source.entry and source.entry.format(**values)
            yield Source(source.pattern.format(**values), entry, source.dims)


def name_of(path: str, paths: Collection[str], stacks: Mapping[str, StackNames]) -> str:
    """Returns a variable's name in a checkpoint of these stacks, the first of its alternatives."""
    patterns = (source.pattern for source in sources_of(path, paths, stacks))
    # RMSNorm has no bias.
    is_layer_norm = f"{path.removesuffix('scale')}bias" in paths
    name = next((p for p in patterns if not (is_layer_norm and "rms_norm" in p)), "")
    while (first := re.sub(r"\(\?:([^()|]*)[^()]*\)", r"\1", name)) != name:
        name = first
    return re.sub(r"\\(\W)", r"\1", name)


def slot_names(name: str, slot: str) -> list[str]:
    if slot == "velocity":
        return [f"{name}_momentum_v"]
    return [f"{name}_slot_{slot}", f"{name}/adam_{slot}"]


def is_slot(name: str) -> bool:
    return bool(_SLOT.search(name))


def _template_values(
    groups: dict[str, str], paths: Collection[str], stacks: Mapping[str, StackNames] | None
) -> dict[str, str | int]:
    values: dict[str, str | int] = dict(groups)
    shared = decoder = "(?:decoder|transformer)"
    if stacks is None:
        shared = "(?:shared|decoder|transformer)"
    else:
        # A language model is a stack that shares its embedding with no other.
        decoder = stacks["decoder"].scope
        shared = decoder if len(stacks) == 1 else "shared"
    values |= {"shared": shared, "decoder": decoder, "cls": ""}
    if "stack" not in groups:
        return values
    side, block = groups["stack"], int(groups.get("block", 0))
    if stacks is None:
        start = f"{side}_stack/blocks/{block}/"
        names = [p.removeprefix(start).split("/")[0] for p in paths if p.startswith(start)]
        stack = StackNames("encoder" if side == "encoder" else decoder, [*dict.fromkeys(names)])
    else:
        stack = stacks[side]
    places = [f"{stack.scope}/{stack.place(block, i)}" for i in range(len(stack.sublayers))]
    classes = stack.classes or [r"\w+"] * len(places)
    values |= {"scope": stack.scope, "first_block": f"(?:{'|'.join(places)})"}
    kinds = ("Attention", "Synthesizer")
    values["attention"] = next((x for x in classes if x.endswith(kinds)), r"\w+")
    if "projection" in groups:
        values["number"] = "qkvo".index(groups["projection"][0])
    if "block" in groups:
        layer = stack.sublayers.index(groups["sublayer"])
        values |= {"block": block, "layer": layer, "flat": block * len(places) + layer}
        values |= {"place": places[layer], "cls": classes[layer]}
        values["role"] = "ffn" if groups["sublayer"].startswith("feed_forward") else "att"
        is_cross_attention = groups["sublayer"].startswith("encoder_decoder")
        values["kind"] = "encdec_attention" if is_cross_attention else "self_attention"
    return values
