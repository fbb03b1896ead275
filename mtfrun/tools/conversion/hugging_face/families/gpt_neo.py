"""GPT-Neo; Black et al. 2021, https://doi.org/10.5281/zenodo.5297715."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.decoder_only import Blocks
from mtfrun.tools.conversion.hugging_face.families.gpt2 import GPT2
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Matrix, Row, Same, row
from mtfrun.tools.conversion.model_description import ModelDescription

_GLOBAL, _LOCAL = "global", "local"


class GPTNeo(GPT2):
    """GPT-2 whose layers attend to everything or to a window, with logits that are not scaled."""

    model_types: ClassVar[Sequence[str]] = ("gpt_neo",)
    architectures: ClassVar[Sequence[str]] = ("GPTNeoForCausalLM",)
    width: ClassVar[str] = "hidden_size"
    num_heads: ClassVar[str] = "num_heads"
    d_ff: ClassVar[str] = "intermediate_size"
    num_positions: ClassVar[tuple[str, int]] = ("max_position_embeddings", 2048)
    rates: ClassVar[Sequence[tuple[str, float]]] = (
        ("resid_dropout", 0.0),
        ("attention_dropout", 0.0),
        ("embed_dropout", 0.0),
    )
    matrix: ClassVar[Matrix] = Matrix()
    masks: ClassVar[str] = r"(transformer\.)?h\.\d+\.attn\.attention\.(masked_)?bias"

    def title(self, settings: Settings) -> str:
        return "GPT-Neo"

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def blocks(self, settings: Settings) -> Blocks:
        number = settings.count("num_layers")
        kinds = _kinds(settings, number + 1)
        if len(kinds) != number:
            raise settings.error("attention_types", f"must describe {number} layers")
        return Blocks([kind == _LOCAL for kind in kinds], "transformer.FeedForward")

    def write_attention(self, settings: Settings, file: GinFile, blocks: Blocks) -> None:
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

    def attention(self, theirs: str, ours: str) -> Iterator[Row]:
        for letter, name in (("q", "query"), ("k", "key"), ("v", "value")):
            yield row(f"{theirs}.attention.{letter}_proj.weight", f"{ours}/{name}", Matrix())
        yield row(f"{theirs}.attention.out_proj.weight", f"{ours}/output", Matrix(inputs=2))
        yield row(f"{theirs}.attention.out_proj.bias", f"{ours}/output_bias", Same())


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
