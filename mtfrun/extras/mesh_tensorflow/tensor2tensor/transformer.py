"""Tensor2Tensor's mtf_transformer of both generations: blocks of 2018, and lists of layers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from mtfrun.checkpoints.names import Source
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import write_training_texts
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.names import sources_of
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun

EMBEDDINGS = ("transformer/targets_embedding", "transformer/inputs_embedding")
_SIZES = {
    **{"D_MODEL": "d_model", "D_FF": "d_ff", "NUM_HEADS": "num_heads", "D_KV": "d_kv"},
    "SEQUENCE_LENGTH": "max_length",
}
# Our sublayers by their names in lists of layers.
_SUBLAYERS = {
    "att": "transformer.SelfAttention",
    "enc_att": "transformer.EncoderDecoderAttention",
    "drd": "transformer.FeedForward",
    "local_att": "parity.MaskedLocalAttention",
    "compressed_att": "parity.CompressedSelfAttention",
}


def sources(_: Settings, path: str, paths: Collection[str]) -> Iterable[Source]:
    return sources_of(path, paths)


def write_model(run: SourceRun, file: GinFile) -> None:
    hparams = run.hparams
    hparams.require("decoder_type", "autoregressive")
    hparams.require("transformer_type", "encdec", "decoder")
    hparams.require("feedforward_layer", "dense_relu_dense", "drd")
    hparams.require("extra_logit", *(False,))
    has_encoder = any(name.startswith("transformer/encoder/") for name in run.checkpoint.shapes)
    if has_encoder:
        file.include(
            "defaults.gin", "extras/mesh_tensorflow/models/t2t_transformer.gin", "data/pairs.gin"
        )
        for macro in ("INPUTS_LENGTH", "TARGETS_LENGTH"):
            file.macro(macro, reference("%SEQUENCE_LENGTH"))
    else:
        file.include("defaults.gin", "models/transformer.gin")
    file.gap()
    for macro, name in _SIZES.items():
        file.macro(macro, hparams.integer(name))
    file.macro("BATCH_SIZE", hparams.integer("batch_size", 64))
    # The tables have it already.
    file.macro("VOCABULARY_DIVISOR", 1)
    file.macro("DROPOUT_RATE", hparams.number("layer_prepostprocess_dropout", 0.1))
    file.macro("ACTIVATION_DTYPE", hparams.text("activation_dtype", "float32"))
    file.gap()
    cls = "transformer.EncoderDecoder" if has_encoder else "transformer.DecoderOnly"
    file.bind(cls, {"shift_across_segments": True})
    tied = hparams.flag("shared_embedding_and_softmax_weights", default=True)
    file.bind("transformer.TokenEmbedding", {"tied_softmax": tied})
    file.bind("transformer.TokenLoss", {"label_smoothing": hparams.number("label_smoothing", 0.0)})
    file.bind("transformer.RMSNorm", {"epsilon": hparams.number("norm_epsilon", 1e-6)})
    for name in ("encoder", "decoder") if has_encoder else ("decoder",):
        layers = _layers(hparams, name, has_encoder=has_encoder)
        number, size = len(layers), block_size(layers)
        block = [reference(f"@{_SUBLAYERS[layer]}") for layer in layers[:size]]
        # The decoder, written last, sets the macro; the encoder may have another number.
        file.macro("NUM_LAYERS", number // size)
        target = f"{name}/transformer.Stack" if has_encoder else "transformer.Stack"
        file.bind(target, {"layers": block, "num_layers": number // size})
        _write_sublayers(hparams, file, layers)
    write_training_texts(file, "data/tsv_pairs.gin" if has_encoder else "data/text_files.gin")
    _write_vocabularies(run, file)


def notes(run: SourceRun) -> list[str]:
    lines = [
        "the original's loss is the mean over all positions, padding included: here padding has "
        "no loss"
    ]
    return lines + note_vocabulary(run)


def note_vocabulary(run: SourceRun) -> list[str]:
    if not run.problem:
        return []
    return [
        f"the vocabulary of the problem {run.problem} is not read: texts are ids in decimals, "
        "separated by spaces"
    ]


def _layers(hparams: Settings, stack: str, *, has_encoder: bool) -> list[str]:
    name = f"{stack}_layers"
    if name not in hparams.values:
        default = hparams.integer("num_hidden_layers", 1)
        number = hparams.non_negative(f"num_{name}", 0) or default
        to_encoder = ["enc_att"] if has_encoder and stack == "decoder" else []
        return ["att", *to_encoder, "drd"] * number
    return read_layers(hparams, name, _SUBLAYERS) * hparams.integer(f"{stack}_replicate_factor", 1)


def read_layers(hparams: Settings, name: str, names: Iterable[str]) -> list[str]:
    layers = hparams.values.get(name)
    if type(layers) is not list or not layers or not set(map(str, layers)) <= set(names):
        raise hparams.error(name, f"must be a list of {', '.join(names)}")
    return list(layers)


def block_size(layers: Sequence[str]) -> int:
    """Returns the length of the shortest repeated block."""
    number = len(layers)
    return next(
        size
        for size in range(1, number + 1)
        if number % size == 0 and list(layers[:size]) * (number // size) == list(layers)
    )


def _write_sublayers(hparams: Settings, file: GinFile, layers: Sequence[str]) -> None:
    sizes = {"num_heads": reference("%NUM_HEADS"), "d_kv": reference("%D_KV")}
    for layer in dict.fromkeys(layers):
        parameters: dict[str, object]
        if layer == "local_att":
            window = hparams.integer("local_attention_window_size", 128)
            parameters = {**sizes, "window": window}
        elif layer == "compressed_att":
            factor = hparams.integer("compression_factor", 4)
            parameters = {**sizes, "compression_factor": factor}
        else:
            name = "attention_dropout" if layer.endswith("att") else "relu_dropout"
            parameters = {"dropout_rate": hparams.number(name, 0.0)}
        file.bind(_SUBLAYERS[layer], parameters)


def _write_vocabularies(run: SourceRun, file: GinFile) -> None:
    shapes = run.checkpoint.shapes
    sizes = [shapes[name][0] for name in EMBEDDINGS if name in shapes]
    file.macro("VOCABULARY", reference("@data.IdVocabulary()"), "ids in decimals")
    file.bind("data.IdVocabulary", {"size": sizes[0]})
    if len(sizes) > 1:
        file.bind("inputs/data.IdVocabulary", {"size": sizes[1]})
        vocabularies = {
            "inputs": reference("@inputs/data.IdVocabulary()"),
            "targets": reference("%VOCABULARY"),
        }
        file.bind("data.Task", {"vocabulary": vocabularies})
