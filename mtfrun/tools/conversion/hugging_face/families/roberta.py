"""RoBERTa: BERT with one type of tokens. Liu et al. 2019, arXiv:1907.11692."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import Reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.bert import Bert, Head, has_spans
from mtfrun.tools.conversion.hugging_face.settings import Settings

# Of models/roberta.gin.
_OFFSET = 2


class Roberta(Bert):
    """Positions begin behind the row of the id of padding, which is 1."""

    model_types: ClassVar[Sequence[str]] = ("roberta",)
    architectures: ClassVar[Sequence[str]] = (
        "RobertaForMaskedLM",
        "RobertaForSequenceClassification",
        "RobertaForQuestionAnswering",
        "RobertaForTokenClassification",
    )
    name: ClassVar[str] = "RoBERTa"
    shipped_file: ClassVar[str] = "models/roberta.gin"
    prefix: ClassVar[str] = "roberta"
    masked: ClassVar[Head] = Head(
        *("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias")
    )
    classifier: ClassVar[Head] = Head(
        *("classifier.dense", None, "classifier.out_proj", "classifier.out_proj.bias")
    )
    kept: ClassVar[Sequence[str]] = (r"roberta\.embeddings\.position_ids",)

    def padding_id(self, settings: Settings) -> int:
        return 0 if settings.non_negative("pad_token_id", 1) == 0 else -1

    def offset(self, settings: Settings) -> int:
        return settings.non_negative("pad_token_id", 1) + 1

    def write_stack(self, settings: Settings, file: GinFile) -> None:
        super().write_stack(settings, file)
        if self.offset(settings) != _OFFSET:
            file.bind("transformer.PositionalEmbedding", {"offset": self.offset(settings)})

    def write_head(self, settings: Settings, file: GinFile) -> None:
        super().write_head(settings, file)
        if has_spans(settings):
            file.macro("SEPARATORS", 2)

    def masked_function(self, settings: Settings) -> Reference:
        return settings.activation("hidden_act", "gelu")
