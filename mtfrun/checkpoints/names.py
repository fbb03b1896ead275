"""Names of a model's variables in the checkpoints of other programs, and of ours.

`sources_of` knows the names of Mesh TensorFlow's transformer package, with which T5 was trained, of
both generations of Tensor2Tensor's MtfTransformer, and of our checkpoints. A user gives the names
of other checkpoints: `InitCheckpoint.names`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from mtfrun.checkpoints.manifest import tensor_key
from mtfrun.errors import did_you_mean
from mtfrun.errors.untrusted import JsonError, read_json
from mtfrun.files.errors import RunDirError, reason

Names: TypeAlias = Mapping[str, str | Mapping[str, str | int]]
"""Names in a checkpoint, by the path of a variable of ours or a regular expression of paths.

A name may have the groups of the expression: "transformer/h_\\1/scale". In its place may stand
{"name": ..., "dims": ..., "entry": ...}, see `Source`.
"""

_FIELDS = {"name", "dims", "entry"}


class Source(NamedTuple):
    """Place of a variable's value in a checkpoint.

    Attributes:
      pattern: a regular expression that matches the full name of a variable.
      entry: index into that variable's first dimension, as text; None for the complete value.
      dims: names of the dimensions after indexing, with spaces, where their order may differ; None
        where only neighbouring dimensions of ours may be merged there.
    """

    pattern: str
    entry: str | None = None
    dims: str | None = None


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
    "MTF_BLOCK": r"{mtf}/block_{block:03d}/layer_{layer:03d}",
    "MTF": r"MTF_BLOCK/\w+",
    "T2T_2018": r"transformer/{stack}/layer_{block}",
    "T2T_HEAD": r"transformer/{stack}/\w+_{flat}",
    "EMBEDDING": r"(?:shared|decoder|transformer)/embedding",
    "RMS_NORM": r"(?:rms_norm|layer_norm)/scale",
    "LAYER_NORM": r"(?:true_layer_norm/)?layer_prepostprocess/layer_norm/layer_norm_{part}",
    "DEPTHWISE": r"separable_conv1d/depthwise_conv_hack/depthwise_dense",
    "POINTWISE": r"separable_conv1d/pointwise_dense/{part}",
    "GATE": r"(?:top_2|top_n|switch|switch_max|ntlb|expert_selection)_",
}

# Our paths = names in checkpoints, which follow in the order in which they are looked for: regular
# expressions, in which <name> is a number. A name may have the groups of its path in braces, an
# [entry] and dims. {mtf} is the scope of a stack, {layer} a sublayer's number in its block, {flat}
# its number in the stack.
_TABLE_TEXT = r"""
embedding/table
    = shared/embedding
    = (?:decoder|transformer)/(?:targets_)?embedding
    = EMBEDDING_embedding_weights
# Clusters of a vocabulary.
embedding/clusters/<cluster>/table = EMBEDDING_{cluster}1?
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
position/table = (?:shared|decoder|transformer)/positional_embedding
softmax/kernel
    = (?:decoder|transformer)/logits/kernel
    = transformer/softmax vocab d_model
STACK/relative_bias/table = {mtf}/block_000/layer_\d+/\w+/relative_attention_bias
STACK/final_norm/scale
    = {mtf}/(?:final_)?RMS_NORM
    = transformer/{stack}/layer_norm_scale [-1]
BLOCK/norm/scale
    = MTF_BLOCK/RMS_NORM
    = transformer/{stack}/layer_norm_scale [{flat}]
STACK/final_norm/PART = {mtf}/LAYER_NORM
BLOCK/norm/PART = MTF_BLOCK/LAYER_NORM
LAYER/attention/PROJECTION = MTF/{projection[0]}
LAYER/(?:attention/|parameters/w)(?P<projection>q(?:uery)?|k(?:ey)?|v(?:alue)?|o(?:utput)?)
    = T2T_2018/{kind}/qkvo [{number}] heads d_model d_kv
    = T2T_HEAD/\w+/qkvo [{number}] heads d_model d_kv
STACK/mixture_of_outputs = {mtf}/block_000/layer_\d+/TransparentEncDecAttention/w
# Universal Transformers.
STACK/signals/table = {mtf}/layer_embedding
STACK/halting/unit/PART = {mtf}/sigmoid_activation_for_pondering/dense\w*/{part}
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
LAYER/(?P<parameter>wi_0/kernel|wi_1/kernel|wi/bias|wo/bias) = MTF/{parameter}
# Mixtures as a layer, and of experts in attention; experts of several layers.
MIXTURE(?P<router>(?:outer_|inner_)?)router/kernel = MTF/(?:GATE|{router})gating/kernel
MIXTUREexperts/wi/factors/<factor>/kernel = MTF/(?:expert_layer_0/)?(?:wi|wi_{factor})/kernel
MIXTUREexperts/wo/kernel = MTF/(?:expert_layer_0/)?wo/kernel
LAYER/experts/layers/<number>/wi/factors/<factor>/kernel
    = MTF/expert_layer_{number}/(?:wi|wi_{factor})/kernel
LAYER/experts/layers/<number>/wo/kernel = MTF/expert_layer_{number}/wo/kernel
LAYER/experts/norms/<number>/scale = MTF/expert_layer_{number}/rms_norm/scale
"""


def _spell_out(text: str) -> str:
    words = "|".join(sorted(_WORDS, reverse=True))  # MTF_BLOCK before MTF
    text = re.sub(words, lambda match: _spell_out(_WORDS[match[0]]), text)
    return re.sub(r"(?<!\?P)<(\w+)>", r"(?P<\1>\\d+)", text)


def _parse_table() -> Iterator[tuple[str, Source]]:
    path = ""
    for line in _spell_out(_TABLE_TEXT).splitlines():
        before, equals, source = line.partition("= ")
        path = before.strip() or path
        if equals:
            (name, entry, dims), *_ = re.findall(r"(\S+)(?: \[(\S+)\])?(?: (.+))?", source)
            yield path, Source(name, entry or None, dims or None)


_TABLE = list(_parse_table())


def sources_of(path: str, paths: Iterable[str]) -> list[Source]:
    """Returns where a variable's value may be; the order of `paths` numbers a block's sublayers."""
    # Also as `mtfrun export --format=tensorflow` writes it.
    sources = [Source(re.escape(tensor_key(f"model/{path}"))), Source(re.escape(path))]
    paths = list(paths)
    parallel = _PARALLEL.fullmatch(path)
    if parallel:
        whole, layer, inner = parallel.groups()
        layers = [m[2] for p in paths if (m := _PARALLEL.fullmatch(p)) and m[1] == whole]
        number = list(dict.fromkeys(layers)).index(layer)
        # The layers may have scopes in the scope of the class, or all the same; in the
        # Evolved Transformer the scopes have names.
        named = {"encoder_decoder_attention": "enc_dec_attention"}.get(layer, layer)
        scope = rf"/\w+/(?:(?:parallel_layer_{number}|{named})/)?"
        inner_sources = sources_of(f"{whole}{inner}", paths)
        return sources + [
            s._replace(pattern=s.pattern.replace(r"/\w+/", scope)) for s in inner_sources
        ]
    for pattern, source in _TABLE:
        if match := re.fullmatch(pattern, path):
            values = _template_values(match.groupdict(), paths)
            entry = source.entry and source.entry.format(**values)
            sources.append(Source(source.pattern.format(**values), entry, source.dims))
    return sources


def slot_names(name: str, slot: str) -> list[str]:
    if slot == "velocity":
        return [f"{name}_momentum_v"]
    return [f"{name}_slot_{slot}", f"{name}/adam_{slot}"]


def is_bookkeeping(name: str) -> bool:
    """Whether a checkpoint's variable is not a parameter: the step, a slot, an average, ..."""
    return bool(
        is_step(name)
        or _SLOT.search(name)
        or re.search(r"^_CHECKPOINTABLE|^save_counter/", name)
        or name.startswith(("variables/optimizer.S", "variables/averages.S"))
        or name.startswith("variables/model.Sloss_terms.S")  # beside the model, in training only
    )


def is_step(name: str) -> bool:
    return name in ("global_step", tensor_key("step"))


def _template_values(groups: dict[str, str], paths: Iterable[str]) -> dict[str, str | int]:
    values: dict[str, str | int] = dict(groups)
    stack = groups.get("stack")
    # A language model is a stack without a name.
    values["mtf"] = "encoder" if stack == "encoder" else "(?:decoder|transformer)"
    if "projection" in groups:
        values["number"] = "qkvo".index(groups["projection"][0])
    if "block" in groups:
        block, sublayer = int(groups["block"]), groups["sublayer"]
        start = f"{stack}_stack/blocks/{block}/"
        names = [p.removeprefix(start).split("/")[0] for p in paths if p.startswith(start)]
        names = list(dict.fromkeys(names))
        layer = names.index(sublayer)
        values |= {"block": block, "layer": layer, "flat": block * len(names) + layer}
        is_cross_attention = sublayer.startswith("encoder_decoder")
        values["kind"] = "encdec_attention" if is_cross_attention else "self_attention"
    return values


def read_names(names: Names | str, what: str) -> Names:
    if isinstance(names, str):
        what = f"{what}={names}"
        try:
            names = read_json(pathlib.Path(names).expanduser())
        except JsonError as error:
            raise RunDirError(f"{what} is not JSON: {error}") from error
        except (OSError, ValueError) as error:
            raise RunDirError(f"{what}: cannot be read: {reason(error)}") from error
    if not isinstance(names, Mapping):
        raise RunDirError(f"{what}: names are a dictionary, our paths to the checkpoint's names")
    for key, entry in names.items():
        fields = {"name": entry} if isinstance(entry, str) else entry
        is_valid = isinstance(fields, Mapping) and "name" in fields and set(fields) <= _FIELDS
        if not is_valid or not all(isinstance(x, str | int) for x in fields.values()):
            raise RunDirError(
                f'{what}: {key}: give a name, or {{"name": ..., "dims": ..., "entry": ...}}, '
                f"not {entry!r}"
            )
        try:
            re.compile(key)
        except re.error as error:
            raise RunDirError(f"{what}: {key} is not a regular expression: {error}") from None
    return names


def sources_in_names(
    names: Names, paths: Collection[str], stored: Collection[str], what: str
) -> dict[str, Source]:
    """Returns sources by our path.

    RunDirError if a key matches no variable, or one that another key matches too; a name is not in
    the checkpoint, or one key gives it to two variables.
    """
    sources: dict[str, Source] = {}
    keys: dict[str, str] = {}
    for key in sorted(names, key=lambda key: key not in paths):  # paths come before expressions
        by_name: dict[tuple[str, str | None], str] = {}  # our path by name and entry
        pattern = re.compile(re.escape(key) if key in paths else key)
        matches = [match for path in paths if (match := pattern.fullmatch(path))]
        if not matches:
            raise RunDirError(
                f"{what}: {key} matches no variable of the model{did_you_mean(key, paths)}"
            )
        for match in matches:
            path = match[0]
            source = _expand(names[key], match, f"{what}: {key}")
            name = source.pattern
            if name not in stored:
                near = did_you_mean(name, stored)
                raise RunDirError(f"{what}: {name}, for {path}, is not in the checkpoint{near}")
            other = by_name.setdefault((name, source.entry), path)
            if other != path:
                raise RunDirError(
                    f"{what}: {key} gives {name} to both {other} and {path}: use a group of the "
                    r"expression in the name, as in \1"
                )
            if path not in keys:
                keys[path] = key
                sources[path] = source._replace(pattern=re.escape(name))
            elif keys[path] not in paths:
                raise RunDirError(f"{what}: both {keys[path]} and {key} match {path}")
    return sources


def _expand(entry: Any, match: re.Match[str], what: str) -> Source:
    """Returns an entry's name, with the groups of the match; not yet as a pattern."""
    fields = {"name": entry} if isinstance(entry, str) else entry
    try:
        texts = {name: match.expand(str(value)) for name, value in fields.items()}
        number = texts.get("entry")
        if number is not None:
            int(number)
    except (re.error, IndexError, ValueError) as error:
        remedy = "a group of the expression is \\1, and an entry is a number"
        raise RunDirError(f"{what}: {error}; {remedy}") from None
    return Source(texts["name"], texts.get("entry"), texts.get("dims"))
