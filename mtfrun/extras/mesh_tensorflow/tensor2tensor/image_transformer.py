"""Tensor2Tensor's mtf_image_transformer with attention in blocks of the sequence of values."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mtfrun.checkpoints.names import Source
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import write_training_images
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.names import sources_of
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun

POSITIONS = "positional_emb_rows"
# Our class, and the parameter of the block's length, by attention_type.
_ATTENTIONS = {
    "local1d": ("parity.MaskedLocalAttention", "window"),
    "local1d_spatial": ("parity.SpatialBlockAttention", "block_length"),
}
_SIZES = {
    **{"NUM_LAYERS": "num_decoder_layers", "D_MODEL": "hidden_size", "D_FF": "d_ff"},
    **{"NUM_HEADS": "num_heads", "D_KV": "d_kv", "BATCH_SIZE": "batch_size"},
}


def sources(_: Settings, path: str, paths: Collection[str]) -> Iterable[Source]:
    return sources_of(path, paths)


def notes(_: SourceRun) -> list[str]:
    return [
        "the original drops the same activations at all positions of an image: here dropout draws "
        "for each position"
    ]


def write_model(run: SourceRun, file: GinFile) -> None:
    hparams = run.hparams
    hparams.require("attention_type", *_ATTENTIONS)
    # The original fails with classes: it passes unknown arguments to `mtf.layers.embedding`.
    hparams.require("unconditional", *(True,))
    size, channels = hparams.integer("img_len"), hparams.integer("num_channels", 3)
    file.include("defaults.gin", "extras/vision/models/image_transformer.gin")
    file.gap()
    file.macro("IMAGE_ROWS", size)
    file.macro("IMAGE_COLS", size)
    file.macro("IMAGE_CHANNELS", channels)
    file.macro("SEQUENCE_LENGTH", size * size * channels)
    for macro, name in _SIZES.items():
        file.macro(macro, hparams.integer(name))
    file.macro("VOCABULARY_DIVISOR", hparams.integer("vocab_divisor", 1))
    file.macro("DROPOUT_RATE", hparams.number("layer_prepostprocess_dropout", 0.1))
    file.macro("ACTIVATION_DTYPE", hparams.text("activation_dtype", "float32"))
    file.gap()
    attention, block_parameter = _ATTENTIONS[hparams.text("attention_type", "local1d")]
    transforms = ["LayerNorm", "CallLayer", "SublayerDropout", "Residual"]
    position = reference("@parity.RowAndColumnPositions")
    embedding = {"position": position, "tied_softmax": False, "softmax_bias": True}
    bindings: dict[str, dict[str, object]] = {
        "transformer.TokenEmbedding": embedding,
        "parity.RowAndColumnPositions": {"image": reference("@vision.ImageSize()")},
        "transformer.Stack": {
            "layers": [reference(f"@{cls}") for cls in (attention, "transformer.FeedForward")]
        },
        "transformer.StackTransforms": {
            "initial": [],
            "layer": [reference(f"@transformer.{name}") for name in transforms],
            "final": [reference("@transformer.LayerNorm")],
        },
        "transformer.LayerNorm": {"epsilon": 1e-6},
        "transformer.FeedForward": {"dropout_rate": hparams.number("dropout", 0.0)},
        attention: {
            "num_heads": reference("%NUM_HEADS"),
            "d_kv": reference("%D_KV"),
            block_parameter: hparams.integer("block_length", 128),
        },
    }
    for cls, parameters in bindings.items():
        file.bind(cls, parameters)
    write_training_images(file)
    images = {"labels": ["image"], "channels": channels, "rows": size, "cols": size}
    file.bind("data.NoImages", images)
