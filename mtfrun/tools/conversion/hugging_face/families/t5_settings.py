"""Settings that T5 and its descendants have in common, in a gin file."""

from __future__ import annotations

from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.data_text import write_pairs
from mtfrun.tools.conversion.hugging_face.settings import Settings

UNTIED_BUT_SCALED = (
    "scales the logits of a softmax of its own, lm_head, which is not supported: train with "
    "tie_word_embeddings=false, or without lm_head"
)


def num_blocks(settings: Settings) -> tuple[int, int]:
    """Returns the numbers of blocks of the encoder and of the decoder."""
    of_encoder = settings.count("num_layers")
    return of_encoder, settings.count("num_decoder_layers", of_encoder)


def write_encoder_decoder(
    settings: Settings, file: GinFile, model: str, softmax: dict[str, bool]
) -> None:
    """Adds a shipped model and the sizes that all these models have.

    Args:
      settings: the configuration.
      file: the gin file.
      model: the shipped file.
      softmax: parameters of `transformer.TokenEmbedding`.
    """
    # Id 0 is padding here, and what a decoder reads first.
    settings.require("pad_token_id", 0)
    settings.require("decoder_start_token_id", 0)
    file.include(model)
    write_pairs(file)
    longest = settings.integer("n_positions", 512)
    file.macro("INPUTS_LENGTH", longest, "tokens of the longest texts")
    file.macro("TARGETS_LENGTH", longest)
    file.gap()
    file.macro("NUM_LAYERS", num_blocks(settings)[0])
    file.macro("D_MODEL", settings.integer("d_model"))
    file.macro("D_FF", settings.integer("d_ff"))
    file.macro("NUM_HEADS", settings.integer("num_heads"))
    file.macro("D_KV", settings.integer("d_kv"))
    file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
    file.bind(
        "transformer.RelativePositionBias",
        {
            "num_buckets": settings.integer("relative_attention_num_buckets", 32),
            "max_distance": settings.integer("relative_attention_max_distance", 128),
        },
    )
    file.bind("transformer.RMSNorm", {"epsilon": settings.number("layer_norm_epsilon", 1e-6)})
    file.bind("transformer.TokenEmbedding", softmax)
    file.bind("transformer.TokenLoss", {"z_loss": 0.0}, comment="as in transformers")
