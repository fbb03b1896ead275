"""DistilBERT: BERT with fewer layers. Sanh et al. 2019, arXiv:1910.01108."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.tools.conversion.hugging_face.families.bert import Bert, Head


class DistilBert(Bert):
    """BERT by other names, without types of tokens."""

    model_types: ClassVar[Sequence[str]] = ("distilbert",)
    architectures: ClassVar[Sequence[str]] = (
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
        "DistilBertForQuestionAnswering",
        "DistilBertForTokenClassification",
    )
    name: ClassVar[str] = "DistilBERT"
    shipped_file: ClassVar[str] = "models/distilbert.gin"
    width: ClassVar[str] = "dim"
    num_layers: ClassVar[str] = "n_layers"
    num_heads: ClassVar[str] = "n_heads"
    d_ff: ClassVar[str] = "hidden_dim"
    activation: ClassVar[str] = "activation"
    rates: ClassVar[Sequence[str]] = ("dropout", "attention_dropout")
    classifier_rate: ClassVar[str] = "seq_classif_dropout"
    num_types: ClassVar[int] = 0
    prefix: ClassVar[str] = "distilbert"
    layers: ClassVar[str] = "transformer.layer"
    attention: ClassVar[Sequence[str]] = (
        *("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),
    )
    maps: ClassVar[Sequence[str]] = ("ffn.lin1", "ffn.lin2")
    norms: ClassVar[Sequence[str]] = ("sa_layer_norm", "output_layer_norm")
    masked: ClassVar[Head] = Head(
        *("vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias")
    )
    classifier: ClassVar[Head] = Head("pre_classifier", None, "classifier", "classifier.bias")
    tokens_rate: ClassVar[str] = "dropout"
    spans_rate: ClassVar[str | None] = "qa_dropout"
    spans_default_rate: ClassVar[float] = 0.1
    classifier_activation: ClassVar[str] = "relu"
    kept: ClassVar[Sequence[str]] = (r"distilbert\.embeddings\.position_ids",)
