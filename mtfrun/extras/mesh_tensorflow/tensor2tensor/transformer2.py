"""Tensor2Tensor's mtf_unitransformer and mtf_bitransformer, models of Mesh TensorFlow's package.

Their hyperparameters become the arguments of its classes, which `conversion.mesh_tensorflow` reads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from mtfrun.checkpoints.names import Source
from mtfrun.configuration.gin_values import reference
from mtfrun.extras.huggingface.family import write_training_texts
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig
from mtfrun.extras.mesh_tensorflow.importer.data import write_decoding
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft
from mtfrun.extras.mesh_tensorflow.importer.model.model import read_stacks
from mtfrun.extras.mesh_tensorflow.importer.model.model import write_model as write_source_model
from mtfrun.extras.mesh_tensorflow.names import StackNames, sources_of
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun
from mtfrun.extras.mesh_tensorflow.tensor2tensor.transformer import (
    block_size,
    note_vocabulary,
    read_layers,
)

# The layers of these models have no names, and therefore one norm.
NORM, NORM_OF_DECODER = "transformer//layer_norm/scale", "decoder//layer_norm/scale"
# Classes of Mesh TensorFlow by their names in lists of layers.
_CLASSES = {
    "self_att": "SelfAttention",
    "local_self_att": "LocalSelfAttention",
    "enc_att": "EncDecAttention",
    "drd": "DenseReluDense",
    "moe_1d": "MoE1D",
    "moe_2d": "MoE2D",
}
# The same classes by our names of sublayers.
_SUBLAYERS = {
    **{"self_attention": "SelfAttention", "local_self_attention": "LocalSelfAttention"},
    **{"encoder_decoder_attention": "EncDecAttention", "feed_forward": "DenseReluDense"},
    **{"moe_1d": "MoE1D", "moe_2d": "MoE2D"},
}


def sources(_: Settings, path: str, paths: Collection[str]) -> Iterable[Source]:
    """Layers have no names: "transformer//SelfAttention/q" is of all layers of this class."""
    stacks: dict[str, StackNames] = {}
    for side in ("encoder", "decoder"):
        matches = (re.match(rf"{side}_stack/blocks/\d+/(\w+)", path) for path in paths)
        names = list(dict.fromkeys(match[1] for match in matches if match))
        if names:
            classes = [_SUBLAYERS[re.sub(r"_\d+$", "", name)] for name in names]
            scope = side if side == "encoder" or stacks else "transformer"
            stacks[side] = StackNames(scope, names, lambda *_: "", classes)
    return sources_of(path, paths, stacks)


def notes(run: SourceRun) -> list[str]:
    lines = [
        "layers of one class share their variables, and all layers of a stack one norm, as in the "
        "original (parity.SharedLayersStack)"
    ]
    if run.hparams.flag("use_global_position_in_packed_sequence", default=True):
        lines.append(
            "the original counts positions through a packed row: here every text begins with "
            "position 0"
        )
    return lines + note_vocabulary(run)


def write_model(run: SourceRun, file: Draft) -> None:
    hparams = run.hparams
    is_pair = NORM_OF_DECODER in run.checkpoint.shapes
    source = _read_source(hparams, is_pair=is_pair)
    stacks = read_stacks(source)
    for stack in stacks:
        stack.parameters["parity.SharedLayersStack"] = {}
    file.include("defaults.gin")
    length = hparams.non_negative("length", 0) or hparams.integer("max_length")
    file.macro("SEQUENCE_LENGTH", length)
    if is_pair:
        file.include("data/pairs.gin")
        for macro in ("INPUTS_LENGTH", "TARGETS_LENGTH"):
            file.macro(macro, reference("%SEQUENCE_LENGTH"))
    file.macro("BATCH_SIZE", hparams.integer("batch_size"))
    file.macro("ACTIVATION_DTYPE", hparams.text("activation_dtype", "float32"))
    write_source_model(source, file, stacks)
    file.gap()
    write_training_texts(file, "data/tsv_pairs.gin" if is_pair else "data/text_files.gin")
    file.macro("VOCABULARY", reference("@data.IdVocabulary()"), "ids in decimals")
    file.bind("data.IdVocabulary", {"size": run.checkpoint.vocabulary_size})
    write_decoding(source, file)


def _read_source(hparams: Settings, *, is_pair: bool) -> SourceConfig:
    hparams.require("shared_embedding" if is_pair else "autoregressive", *(True,))
    source = SourceConfig([])
    is_tied = hparams.flag("shared_embedding_and_softmax_weights", default=False)
    expert_size = hparams.integer("moe_hidden_size", 32768)
    source.bind(
        {
            "run.model_type": "bitransformer" if is_pair else "lm",
            "Unitransformer.d_model": hparams.integer("d_model"),
            "Unitransformer.max_length": hparams.integer("max_length"),
            "Unitransformer.z_loss": hparams.number("z_loss", 1e-4),
            "Unitransformer.shared_embedding_and_softmax_weights": is_tied,
            "LayerStack.dropout_rate": hparams.number("layer_prepostprocess_dropout", 0.0),
            "LayerStack.norm_epsilon": hparams.number("norm_epsilon", 1e-6),
            "LocalSelfAttention.radius": hparams.integer("local_attention_radius", 128),
            "DenseReluDense.hidden_size": hparams.integer("d_ff"),
            "DenseReluDense.dropout_rate": hparams.number("relu_dropout", 0.0),
            "MoE1D.num_experts": hparams.integer("moe_num_experts", 32),
            "MoE2D.expert_x": hparams.integer("moe_expert_x", 8),
            "MoE2D.expert_y": hparams.integer("moe_expert_y", 4),
            "MoE1D.hidden_size": expert_size,
            "MoE2D.hidden_size": expert_size,
        }
    )
    temperature = hparams.number("sampling_temp", 1.0)
    if not is_pair:
        _add_stack(source, hparams)
        source.bind({"Unitransformer.sample_autoregressive.temperature": temperature})
        return source
    smoothing = hparams.number("label_smoothing", 0.0)
    source.within("decoder").bind({"Unitransformer.label_smoothing": smoothing})
    for stack in ("encoder", "decoder"):
        _add_stack(source.within(stack), hparams)
    beam_size = hparams.integer("beam_size", 1)
    constant = int(hparams.number("decode_length_constant", 10.0))
    search = {
        "beam_size": beam_size,
        "alpha": hparams.number("alpha", 0.6),
        "temperature": temperature if beam_size == 1 else 0.0,
        "decode_length_multiplier": hparams.number("decode_length_multiplier", 1.5),
        "decode_length_constant": constant,
    }
    source.bind({f"Bitransformer.decode.{name}": value for name, value in search.items()})
    return source


def _add_stack(source: SourceConfig, hparams: Settings) -> None:
    scope = source.scope
    prefix = f"{scope}_" * bool(scope)
    names = [layer for layer in _CLASSES if layer != "enc_att" or scope == "decoder"]
    layers = read_layers(hparams, f"{prefix}layers", names)
    if scope == "encoder" and "local_self_att" in layers:
        why = "in an encoder local_self_att sees one position less before than after"
        raise hparams.error(f"{prefix}layers", f"is not supported: {why}")
    block = layers[: block_size(layers)]
    extra_logit = 0.0 if hparams.flag("extra_logit", default=False) else None
    attention = {
        "num_heads": hparams.integer(f"{prefix}num_heads"),
        "num_memory_heads": hparams.non_negative(f"{prefix}num_memory_heads", 0),
        "key_value_size": hparams.integer("d_kv"),
        "shared_kv": hparams.flag(f"{prefix}shared_kv", default=False),
        "attention_kwargs": {"extra_logit": extra_logit},
        "dropout_rate": hparams.number("attention_dropout", 0.0),
    }
    # Attention to the encoder takes them from the first class.
    kinds = ("SelfAttention", "LocalSelfAttention")
    source.bind(
        {
            "make_layer_stack.layers": [reference(f"@{_CLASSES[layer]}") for layer in block],
            "make_layer_stack.num_layers": len(layers) // len(block),
            **{f"{kind}.{name}": value for kind in kinds for name, value in attention.items()},
        }
    )
