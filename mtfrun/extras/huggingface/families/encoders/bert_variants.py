"""RoBERTa, DistilBERT and ModernBERT.

Liu et al. 2019, arXiv:1907.11692; XLM-RoBERTa: Conneau et al. 2019, arXiv:1911.02116; CamemBERT:
Martin et al. 2019, arXiv:1911.03894; Sanh et al. 2019, arXiv:1910.01108; Warner et al. 2024,
arXiv:2412.13663.
"""

from __future__ import annotations

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoders.bert import SPANS, TEXTS, Bert, Head
from mtfrun.extras.huggingface.family import FULL, GATED, GLOBAL, LOCAL, SLIDING, Blocks
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable

_SCOPE = "local/"
# As in extras/huggingface/models/roberta.gin.
_OFFSET = 2


class Roberta(Bert):
    """BERT under other names, with positions offset by the padding id, 1.

    XLM-RoBERTa and CamemBERT differ only in their vocabularies.
    """

    shipped_file = "extras/huggingface/models/roberta.gin"
    usual_padding = 1
    prefix = "roberta"
    masked = Head("lm_head.decoder", "lm_head.dense", "lm_head.layer_norm", "lm_head.bias")
    classifier = Head("classifier.out_proj", "classifier.dense")
    kept = ()
    masked_has_function = False

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.offset = settings.non_negative("pad_token_id", self.usual_padding) + 1

    def write_stack(self, file: GinFile) -> None:
        super().write_stack(file)
        if self.offset != _OFFSET:
            file.bind("transformer.PositionalEmbedding", {"offset": self.offset})

    def write_head(self, file: GinFile) -> None:
        super().write_head(file)
        if self.task == SPANS:
            file.macro("SEPARATORS", 2)


class DistilBert(Bert):
    """BERT with fewer layers, under other names, without token types."""

    shipped_file = "extras/huggingface/models/distilbert.gin"
    width = "dim"
    num_layers = "n_layers"
    num_heads = "n_heads"
    d_ff = "hidden_dim"
    activation = "activation"
    rates = ("dropout", "attention_dropout")
    num_types = 0
    prefix = "distilbert"
    layers = "transformer.layer"
    attention = (*("attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin"),)
    maps = ("ffn.lin1", "ffn.lin2")
    norms = ("sa_layer_norm", "output_layer_norm")
    masked = Head("vocab_projector", "vocab_transform", "vocab_layer_norm")
    classifier = Head("classifier", "pre_classifier", rate="seq_classif_dropout")
    tokens = Head("classifier", rate="dropout")
    spans_rate = ("qa_dropout", 0.1)
    classifier_activation = "relu"
    kept = ()


class ModernBert(Bert):
    """Norms before the sublayers, except the first; fused projections."""

    shipped_file = "extras/huggingface/models/modernbert.gin"
    sublayers = (*(GLOBAL, GATED, LOCAL, GATED, LOCAL, GATED),)
    activation = "hidden_activation"
    prefix = "model"
    words = "embeddings.tok_embeddings.weight"
    positions = ""
    first_norm = "embeddings.norm"
    last_norm = "final_norm"
    layers = "layers"
    attention = ("attn.Wqkv", "attn.Wo")
    maps = ("mlp.Wi", "mlp.Wo")
    norms = ("attn_norm", "mlp_norm")
    kept = ()
    has_bias = ("attention_bias", False)
    map_bias = ("mlp_bias", False)
    is_gated = True
    masked = Head("decoder", "head.dense", "head.norm")
    classifier = Head("classifier", "head.dense", "head.norm")
    spans = classifier
    tokens = classifier
    spans_rate = ("classifier_dropout", 0.0)
    usual_padding = 50283
    num_types = 0
    has_head_bias = False

    def write_stack(self, file: GinFile) -> None:
        settings = self.settings
        self.blocks.write_gin(file, self.sublayers)
        for prefix, name in (("", "mlp"), ("ATTENTION_", "attention"), ("EMBEDDING_", "embedding")):
            file.macro(f"{prefix}DROPOUT_RATE", settings.number(f"{name}_dropout", 0.0))
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base("global_rope_theta", 160000.0))
        file.macro("LOCAL_ROTARY_BASE", local.base("local_rope_theta", 10000.0))
        everywhere.write_scaling(file)
        local.write_scaling(file, _SCOPE)
        self.write_windows(file, {"rotary": reference(f"@{_SCOPE}{ROTARY}()")})
        file.macro("NORM_EPSILON", settings.number("norm_eps", 1e-5))
        self.write_row_length(file, settings.integer("max_position_embeddings", 8192))
        maps = {"activation": self.function, "use_bias": settings.is_set(self.map_bias)}
        file.bind(GATED, maps)
        has_bias = settings.is_set(self.has_bias)
        file.bind("transformer.AttentionHeads", {"use_bias": has_bias, "use_output_bias": has_bias})
        file.bind("transformer.LayerNorm", {"use_bias": self.has_norm_bias})

    def write_head_transforms(self, file: GinFile) -> list[str]:
        function = self.settings.activation("classifier_activation", "gelu")
        has_bias = self.settings.flag("classifier_bias", default=False)
        file.bind("transformer.DenseTransform", {"activation": function, "use_bias": has_bias})
        head = ["transformer.DenseTransform", "transformer.LayerNorm"]
        if self.task == TEXTS:
            self.settings.require("classifier_pooling", "cls", "mean")
            if self.settings.text("classifier_pooling", "cls") == "mean":
                head.insert(0, "transformer.MeanOverLength")
        return head

    def write_softmax(self, file: GinFile) -> None:
        has_bias = self.settings.flag("decoder_bias", default=True)
        softmax = {"tied_softmax": self.is_tied, "softmax_bias": has_bias}
        file.bind("transformer.TokenEmbedding", softmax)

    @property
    def has_norm_bias(self) -> bool:
        return self.settings.flag("norm_bias", default=False)

    def add_norm(self, table: TensorTable, theirs: str, ours: str) -> None:
        if not theirs.endswith("layers.0.attn_norm"):  # the first is the embedding's
            table.norm(theirs, ours, has_bias=self.has_norm_bias)

    def make_blocks(self) -> Blocks:
        return Blocks.of_windows(self.windows, GATED, "encoder_stack")

    @property
    def window(self) -> int | None:
        """With the position itself."""
        return self.settings.integer("local_attention", 128) // 2 + 1

    def is_local(self, layer: int) -> bool:
        return layer % self.settings.integer("global_attn_every_n_layers", 3) != 0
