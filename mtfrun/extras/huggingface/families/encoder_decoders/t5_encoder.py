"""The encoders of T5 and mT5 alone, for vectors of texts. Ni et al. 2021, arXiv:2108.08877."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import T5, write_distances_and_norms
from mtfrun.extras.huggingface.family import (
    GLOBAL,
    ModelDescription,
    Processor,
    write_row_length,
    write_text_data,
)
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, Same, TensorTable, VocabularyRows
from mtfrun.extras.huggingface.tokenizers.tokenizer import read_tokenizer

_EMBEDDING = "shared.weight"


class T5Encoder(T5):
    """T5 without its decoder. There is no softmax in the folder: here it is the embedding."""

    architectures: ClassVar[Sequence[str]] = ("T5EncoderModel", "MT5EncoderModel")

    def title(self, settings: Settings) -> str:
        return f"{super().title(settings)}, the encoder"

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_tokenizer(folder, settings, self.pad_id).with_mask(settings)]

    def ties(self, settings: Settings) -> Mapping[str, str]:
        return {"encoder.embed_tokens.weight": _EMBEDDING}

    def settings_of(self, model: ModelDescription) -> Settings | None:
        return None

    def attention_class(self, settings: Settings) -> str:
        """Returns the name of the class of self-attention."""
        del settings
        return GLOBAL

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("pad_token_id", 0)
        file.include("extras/huggingface/models/t5_encoder.gin", "data/masked_lm.gin")
        write_text_data(file, "data/text_files.gin")
        file.gap()
        file.macro("NUM_LAYERS", settings.count("num_layers"))
        for macro in ("D_MODEL", "D_FF", "NUM_HEADS", "D_KV"):
            file.macro(macro, settings.integer(macro.lower()))
        file.macro("DROPOUT_RATE", settings.number("dropout_rate", 0.1))
        write_row_length(settings.integer("n_positions", 512), file)
        write_distances_and_norms(settings, file)
        attention, layer = self.attention_class(settings), self.write_layers(settings, file)
        if (attention, layer) != (GLOBAL, "FeedForward"):
            layers = [reference(f"@{attention}"), reference(f"@transformer.{layer}")]
            file.bind("transformer.Stack", {"layers": layers})
        if layer != "FeedForward":
            parameters = {"d_ff": reference("%D_FF"), "dropout_rate": reference("%DROPOUT_RATE")}
            file.bind(f"transformer.{layer}", parameters)

    def table(self, settings: Settings) -> TensorTable:
        words = VocabularyRows(settings.integer("vocab_size"))
        rows = [Row(_EMBEDDING, "embedding/table", words)]
        for block in range(settings.count("num_layers")):
            rows += self.block(settings, "encoder", block)
        norm = "encoder_stack/final_norm/scale"
        rows.append(Row("encoder.final_layer_norm.weight", norm, Same()))
        return TensorTable(rows)
