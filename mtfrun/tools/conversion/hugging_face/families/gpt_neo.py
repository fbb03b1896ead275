"""GPT-Neo; Black et al. 2021, https://doi.org/10.5281/zenodo.5297715."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.decoder_only import Blocks
from mtfrun.tools.conversion.hugging_face.families.gpt2 import (
    embedding_rows,
    feed_forward_rows,
    name_prefix,
    norm_rows,
    ties,
    write_dropout,
    write_embedding,
    write_sizes,
)
from mtfrun.tools.conversion.hugging_face.family import TextFamily
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Matrix, Row, Same, TensorTable, row

_GLOBAL, _LOCAL = "global", "local"


class GPTNeo(TextFamily):
    """GPT-2 whose layers attend to everything or to a window, with logits that are not scaled."""

    model_types: ClassVar[Sequence[str]] = ("gpt_neo",)
    architectures: ClassVar[Sequence[str]] = ("GPTNeoForCausalLM",)
    pad_id: ClassVar[int] = -1

    def title(self, settings: Settings) -> str:
        return "GPT-Neo"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        return ties(settings)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        width, heads = settings.integer("hidden_size"), settings.integer("num_heads")
        d_ff = settings.optional_integer("intermediate_size") or 4 * width
        blocks = _blocks(settings)
        write_sizes(settings, file, blocks, (width, heads, d_ff))
        write_dropout(
            file,
            settings.number("resid_dropout", 0.0),
            settings.number("attention_dropout", 0.0),
            settings.number("embed_dropout", 0.0),
        )
        write_embedding(settings, file, settings.integer("max_position_embeddings", 2048))
        file.bind("transformer.AttentionHeads", {"scaled_logits": False, "use_bias": False})
        if any(blocks.windows):
            file.bind(
                "transformer.LocalSelfAttention",
                {
                    "window": settings.integer("window_size", 256),
                    "heads": reference("@transformer.AttentionHeads()"),
                    "dropout_rate": reference("%ATTENTION_DROPOUT_RATE"),
                },
            )

    def table(self, settings: Settings) -> TensorTable:
        rows, prefix = embedding_rows(settings), name_prefix(settings)
        blocks = _blocks(settings)
        for layer in range(len(blocks.windows)):
            theirs = f"{prefix}h.{layer}"
            attention, feed_forward = blocks.paths(layer)
            rows += norm_rows(f"{theirs}.ln_1", f"{attention}/norm")
            rows += _attention(f"{theirs}.attn.attention", f"{attention}/layer/attention")
            rows += norm_rows(f"{theirs}.ln_2", f"{feed_forward}/norm")
            rows += feed_forward_rows(f"{theirs}.mlp", f"{feed_forward}/layer", Matrix())
        rows += norm_rows(f"{prefix}ln_f", "decoder_stack/final_norm")
        # Masks in files of earlier versions.
        kept = [r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias"]
        return TensorTable(rows, kept)


def _blocks(settings: Settings) -> Blocks:
    number = settings.count("num_layers")
    kinds = _kinds(settings, number + 1)
    if len(kinds) != number:
        raise settings.error("attention_types", f"must describe {number} layers")
    return Blocks([kind == _LOCAL for kind in kinds], "transformer.FeedForward")


def _kinds(settings: Settings, most: int) -> list[str]:
    """Returns "global" or "local" for every layer, of [[[kinds in turn], how often], ...]."""
    name = "attention_types"
    types = settings.values.get(name)
    if types is None:
        types = [[[_GLOBAL, _LOCAL], 12]]
    try:
        all_kinds = (kind for in_turn, times in types for _ in range(times) for kind in in_turn)
        kinds = list(itertools.islice(all_kinds, most))
    except (TypeError, ValueError) as error:
        raise settings.error(name, "must be a list of [[kinds in turn], how often]") from error
    if any(kind not in (_GLOBAL, _LOCAL) for kind in kinds):
        raise settings.error(name, f"must be of the kinds {_GLOBAL} and {_LOCAL}")
    return kinds


def _attention(theirs: str, ours: str) -> Iterator[Row]:
    for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
        yield row(f"{theirs}.{letter}_proj.weight", f"{ours}/{name}", Matrix())
    yield row(f"{theirs}.out_proj.weight", f"{ours}/output", Matrix(inputs=2))
    yield row(f"{theirs}.out_proj.bias", f"{ours}/output_bias", Same())
