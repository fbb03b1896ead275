"""Names of a model's variables in the checkpoints of other programs, and of ours.

`sources_of` knows the names of Mesh TensorFlow's transformer package, with which T5 was trained, of
both generations of Tensor2Tensor's MtfTransformer, and of our checkpoints. A user gives the names
of other checkpoints: `InitCheckpoint.names`.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
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


class _Row(NamedTuple):
    path: str
    sources: Sequence[Source]


# Slots of Mesh TensorFlow's optimizers: Adafactor (mean squares, whole or of rows and columns, and
# momentum), AdamWeightDecay, Momentum. SGD has none.
_SLOT = re.compile(r"(?:_slot_(?:v|vr|vc|m)|/adam_[mv]|_momentum_v)$")

_STACK = r"(?P<stack>encoder|decoder)_stack"
_LAYER = _STACK + r"/blocks/(?P<block>\d+)/(?P<sublayer>\w+)"
_MTF_LAYER = r"{mtf}/block_{block:03d}/layer_{layer:03d}"
_T2T_2018 = r"transformer/{stack}/layer_{block}"
_T2T_HEAD = r"transformer/{stack}/\w+_{flat}"
# A mixture as a layer, and of experts in attention.
_MIXTURE = rf"{_LAYER}/layer/(?:attention/mixture/)?"
_CONVOLUTION = rf"{_LAYER}/layer(?:/convolution)?"
_DEPTHWISE = "separable_conv1d/depthwise_conv_hack/depthwise_dense"
_NORM = r"(?:rms_norm|layer_norm)/scale"
_LAYER_NORM = r"(?:true_layer_norm/)?layer_prepostprocess/layer_norm/layer_norm_{part}"
_EMBEDDING = r"(?:shared|decoder|transformer)/embedding"
_GATE = r"(?:top_2|top_n|switch|switch_max|ntlb|expert_selection)_"
# A layer of a `Parallel`.
_PARALLEL = re.compile(r"(.*/layer)/layers/(\w+)/layer(/.*)")


def _projection(ours: str, theirs: str, entry: str) -> list[_Row]:
    stacked = [
        Source(_T2T_2018 + r"/{kind}/qkvo", entry, "heads d_model d_kv"),
        Source(_T2T_HEAD + r"/\w+/qkvo", entry, "heads d_model d_kv"),
    ]
    return [
        _Row(
            rf"{_LAYER}/layer/attention/{ours}", [Source(rf"{_MTF_LAYER}/\w+/{theirs}"), *stacked]
        ),
        _Row(rf"{_LAYER}/layer/parameters/w{theirs}", stacked),
    ]


def _feed_forward(name: str, entry: str) -> _Row:
    return _Row(
        rf"{_LAYER}/layer/{name}/kernel",
        [
            Source(rf"{_MTF_LAYER}/\w+/{name}/kernel"),
            Source(_T2T_2018 + r"/dense_relu_dense/kernel", entry, "d_model d_ff"),
            Source(rf"{_T2T_HEAD}/dense_relu_dense/{name}/kernel"),
        ],
    )


_TABLE = [
    _Row(
        r"embedding/table",
        [
            Source(r"shared/embedding"),
            Source(r"(?:decoder|transformer)/(?:targets_)?embedding"),
            Source(rf"{_EMBEDDING}_embedding_weights"),
        ],
    ),
    # Clusters of a vocabulary.
    *(
        _Row(rf"embedding/clusters/{path}", [Source(f"{_EMBEDDING}{name}")])
        for path, name in (
            *((r"(?P<cluster>\d+)/table", "_{cluster}1?"), ("0/table", "1")),
            (r"(?P<cluster>\d+)/projection/kernel", "_{cluster}2"),
            ("0/projection/kernel", "2"),
        )
    ),
    # Mixtures of softmaxes.
    *(
        _Row(rf"softmax/{ours}", [Source(f"{_EMBEDDING}_{theirs}", None, dims)])
        for ours, theirs, dims in (
            ("contexts/kernel", "context_weights", "components _d_model d_model"),
            ("contexts/bias", "context_weights_bias", None),
            ("mixture/kernel", "mixture_weights", "components d_model"),
            ("gate/kernel", "prior_weights", "sigmoids gate_size d_model"),
            ("gate/bias", "prior_weights_bias", None),
            ("shared_gate/kernel", "prior_gates_vector", "sigmoids d_model"),
            ("frequent_vectors", "prior_vocab_vector", None),
            ("frequent_bias", "prior_bias", None),
        )
    ),
    _Row(
        r"inputs_embedding/table",
        [Source(r"encoder/embedding"), Source(r"transformer/inputs_embedding")],
    ),
    _Row(r"position/table", [Source(r"(?:shared|decoder|transformer)/positional_embedding")]),
    _Row(
        r"softmax/kernel",
        [
            Source(r"(?:decoder|transformer)/logits/kernel"),
            Source(r"transformer/softmax", None, "vocab d_model"),
        ],
    ),
    _Row(
        rf"{_STACK}/relative_bias/table",
        [Source(r"{mtf}/block_000/layer_\d+/\w+/relative_attention_bias")],
    ),
    _Row(
        rf"{_STACK}/final_norm/scale",
        [
            Source(r"{mtf}/(?:final_)?" + _NORM),
            Source(r"transformer/{stack}/layer_norm_scale", "-1"),
        ],
    ),
    _Row(
        rf"{_LAYER}/norm/scale",
        [
            Source(rf"{_MTF_LAYER}/{_NORM}"),
            Source(r"transformer/{stack}/layer_norm_scale", "{flat}"),
        ],
    ),
    _Row(rf"{_STACK}/final_norm/(?P<part>scale|bias)", [Source(r"{mtf}/" + _LAYER_NORM)]),
    _Row(rf"{_LAYER}/norm/(?P<part>scale|bias)", [Source(rf"{_MTF_LAYER}/{_LAYER_NORM}")]),
    *_projection("query", "q", "0"),
    *_projection("key", "k", "1"),
    *_projection("value", "v", "2"),
    *_projection("output", "o", "3"),
    _Row(
        rf"{_STACK}/mixture_of_outputs",
        [Source(r"{mtf}/block_000/layer_\d+/TransparentEncDecAttention/w")],
    ),
    # Universal Transformers.
    _Row(rf"{_STACK}/signals/table", [Source(r"{mtf}/layer_embedding")]),
    _Row(
        rf"{_STACK}/halting/unit/(?P<part>kernel|bias)",
        [Source(r"{mtf}/sigmoid_activation_for_pondering/dense\w*/{part}")],
    ),
    # Talking heads.
    *(
        _Row(
            rf"{_LAYER}/layer/attention/{ours}/kernel", [Source(rf"{_MTF_LAYER}/\w+/{name}/kernel")]
        )
        for ours, name in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "y"))
    ),
    _Row(
        rf"{_LAYER}/layer/attention/(?P<map>logits|weights)/kernel",
        [Source(_MTF_LAYER + r"/\w+/{map}/kernel")],
    ),
    _Row(
        rf"{_LAYER}/layer/attention/(?P<map>logits|weights)/of_query/kernel",
        [Source(_MTF_LAYER + r"/\w+/{map}/{map}_dynamic_0/kernel")],
    ),
    _Row(
        # The term of the query, if there is one, is number 0.
        rf"{_LAYER}/layer/attention/(?P<map>logits|weights)/of_memory/kernel",
        [Source(_MTF_LAYER + rf"/\w+/{{map}}/{{map}}_dynamic_{i}/kernel") for i in (1, 0)],
    ),
    # Synthesizer.
    *(
        _Row(rf"{_LAYER}/layer/attention/{ours}", [Source(rf"{_MTF_LAYER}/\w+/{theirs}")])
        for ours, theirs in (
            *(("key_value", "kv"), ("table", "R"), ("factors/0", "R1"), ("factors/1", "R2")),
            *(("dense/kernel", "pi/kernel"), ("gate", "alpha")),
            # Experts in attention.
            *(("linear/query", "q"), ("linear/key_value", "kv")),
            *(("mixture/experts/wo/query/kernel", "q_wo/kernel"),),
            *(("mixture/experts/wo/key_value/kernel", "k_wo/kernel"),),
        )
    ),
    # Memories of product keys.
    _Row(
        rf"{_LAYER}/layer/(?P<parameter>keys|values|query/kernel|query/bias)",
        [Source(_MTF_LAYER + r"/\w+/{parameter}")],
    ),
    _Row(
        rf"{_LAYER}/layer/norm/(?P<part>scale|bias)",
        [Source(_MTF_LAYER + r"/\w+/layer_prepostprocess/layer_norm/layer_norm_{part}")],
    ),
    # Convolutions over positions.
    _Row(rf"{_LAYER}/layer/kernel", [Source(_MTF_LAYER + r"/\w+/conv2d/kernel")]),
    _Row(
        rf"{_CONVOLUTION}/filters/taps/(?P<tap>\d+)",
        [
            Source(_MTF_LAYER + rf"/\w+/{_DEPTHWISE}_{{tap}}/kernel"),
            Source(_MTF_LAYER + r"/\w+/lightwt_depthwise_dense_{tap}/kernel"),
        ],
    ),
    _Row(
        rf"{_CONVOLUTION}/filters/taps/(?P<tap>\d+)/(?P<part>kernel|bias)",
        [Source(_MTF_LAYER + r"/\w+/dyn_conv_depthwise_dense_{tap}/{part}")],
    ),
    _Row(rf"{_CONVOLUTION}/bias", [Source(_MTF_LAYER + rf"/\w+/{_DEPTHWISE}_0/bias")]),
    _Row(
        rf"{_CONVOLUTION}/pointwise/(?P<part>kernel|bias)",
        [Source(_MTF_LAYER + r"/\w+/separable_conv1d/pointwise_dense/{part}")],
    ),
    _Row(
        rf"{_LAYER}/layer/input/factors/(?P<factor>\d)/(?P<part>kernel|bias)",
        [Source(_MTF_LAYER + r"/\w+/local_conv_inp_{factor}/{part}")],
    ),
    _Row(
        rf"{_LAYER}/layer/output/(?P<part>kernel|bias)",
        [Source(_MTF_LAYER + r"/\w+/local_conv_attn_op_projection/{part}")],
    ),
    # The Evolved Transformer.
    _Row(
        rf"{_LAYER}/layer/unit/factors/(?P<factor>\d)/(?P<part>kernel|bias)",
        [Source(_MTF_LAYER + r"/\w+/glu_{factor}/{part}")],
    ),
    _Row(rf"{_LAYER}/layer/left/kernel", [Source(rf"{_MTF_LAYER}/\w+/conv1x1/dense/kernel")]),
    _Row(rf"{_LAYER}/layer/right/kernel", [Source(rf"{_MTF_LAYER}/\w+/conv3x1/conv2d/kernel")]),
    *(
        _Row(rf"{_LAYER}/layer/{ours}/{path}", [Source(rf"{_MTF_LAYER}/\w+/{theirs}/{name}")])
        for ours, theirs in (
            *(("left", "sep_conv11x1"), ("right", "sep_conv7x1_1")),
            ("output", "sep_conv(?:9x1|7x1_2)"),
        )
        for path, name in (
            (r"filters/taps/(?P<tap>\d+)", f"{_DEPTHWISE}_{{tap}}/kernel"),
            ("bias", f"{_DEPTHWISE}_0/bias"),
            ("pointwise/(?P<part>kernel|bias)", "separable_conv1d/pointwise_dense/{part}"),
        )
    ),
    _Row(
        rf"{_LAYER}/layer/relative_bias/table",
        [Source(_MTF_LAYER + r"/\w+/relative_attention_bias")],
    ),
    _feed_forward("wi", "0"),
    _feed_forward("wo", "1"),
    _Row(
        rf"{_MIXTURE}(?P<router>(?:outer_|inner_)?)router/kernel",
        [Source(_MTF_LAYER + r"/\w+/(?:{gate}|{router})gating/kernel")],
    ),
    _Row(
        rf"{_MIXTURE}experts/wi/factors/(?P<factor>\d)/kernel",
        [Source(_MTF_LAYER + r"/\w+/(?:expert_layer_0/)?(?:wi|wi_{factor})/kernel")],
    ),
    _Row(
        rf"{_MIXTURE}experts/wo/kernel",
        [Source(_MTF_LAYER + r"/\w+/(?:expert_layer_0/)?wo/kernel")],
    ),
    # Experts of several layers.
    _Row(
        rf"{_LAYER}/layer/experts/layers/(?P<number>\d+)/wi/factors/(?P<factor>\d)/kernel",
        [Source(_MTF_LAYER + r"/\w+/expert_layer_{number}/(?:wi|wi_{factor})/kernel")],
    ),
    _Row(
        rf"{_LAYER}/layer/experts/layers/(?P<number>\d+)/wo/kernel",
        [Source(_MTF_LAYER + r"/\w+/expert_layer_{number}/wo/kernel")],
    ),
    _Row(
        rf"{_LAYER}/layer/experts/norms/(?P<number>\d+)/scale",
        [Source(_MTF_LAYER + r"/\w+/expert_layer_{number}/rms_norm/scale")],
    ),
    _Row(
        rf"{_LAYER}/layer/(?P<parameter>wi_0/kernel|wi_1/kernel|wi/bias|wo/bias)",
        [Source(_MTF_LAYER + r"/\w+/{parameter}")],
    ),
]


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
        named = {
            "self_attention": "self_attention",
            "encoder_decoder_attention": "enc_dec_attention",
        }
        scopes = [f"parallel_layer_{number}", *([named[layer]] if layer in named else [])]
        scope = rf"/\w+/(?:(?:{'|'.join(scopes)})/)?"
        of_inner = sources_of(f"{whole}{inner}", paths)
        return sources + [s._replace(pattern=s.pattern.replace(r"/\w+/", scope)) for s in of_inner]
    for row in _TABLE:
        match = re.fullmatch(row.path, path)
        if match:
            values = _template_values(match.groupdict(), paths)
            sources += [_fill(source, values) for source in row.sources]
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
    values["gate"] = _GATE
    values["mtf"] = "encoder" if stack == "encoder" else "(?:decoder|transformer)"
    if "block" in groups:
        block, sublayer = int(groups["block"]), groups["sublayer"]
        start = f"{stack}_stack/blocks/{block}/"
        names = list(
            dict.fromkeys(p.removeprefix(start).split("/")[0] for p in paths if p.startswith(start))
        )
        layer = names.index(sublayer)
        values |= {"block": block, "layer": layer, "flat": block * len(names) + layer}
        is_cross_attention = sublayer.startswith("encoder_decoder")
        values["kind"] = "encdec_attention" if is_cross_attention else "self_attention"
    return values


def _fill(source: Source, values: dict[str, str | int]) -> Source:
    entry = None if source.entry is None else source.entry.format(**values)
    return source._replace(pattern=source.pattern.format(**values), entry=entry)


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
        _compile(key, what)
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
    for key, entry in names.items():
        by_name: dict[tuple[str, str | None], str] = {}  # our path by name and entry
        pattern = _compile(key, what)
        matches = {path: match for path in paths if (match := pattern.fullmatch(path))}
        if key in paths:  # a path is not taken for an expression
            matches = {key: matches.get(key) or _whole(key)}
        if not matches:
            raise RunDirError(
                f"{what}: {key} matches no variable of the model{did_you_mean(key, paths)}"
            )
        for path, match in matches.items():
            source = _expand(entry, match, f"{what}: {key}")
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
            if path in keys and key not in paths:
                if keys[path] in paths:
                    continue  # a path itself comes before expressions
                raise RunDirError(f"{what}: both {keys[path]} and {key} match {path}")
            keys[path] = key
            sources[path] = source._replace(pattern=re.escape(name))
    return sources


def _compile(key: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(key)
    except re.error as error:
        raise RunDirError(f"{what}: {key} is not a regular expression: {error}") from None


def _whole(path: str) -> re.Match[str]:
    match = re.fullmatch(re.escape(path), path)
    assert match is not None
    return match


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
