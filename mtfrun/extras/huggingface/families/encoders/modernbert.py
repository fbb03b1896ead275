"""ModernBERT: rotary positions, windows and gates. Warner et al. 2024, arXiv:2412.13663."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoders.bert import Bert
from mtfrun.extras.huggingface.families.encoders.tasks import TEXTS, Head, task_of
from mtfrun.extras.huggingface.family import (
    FULL,
    GATED,
    GLOBAL,
    LOCAL,
    SLIDING,
    Blocks,
    windows_by_rule,
    write_row_length,
    write_window,
)
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Row, Same

_SCOPE = "local/"


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

    def write_stack(self, settings: Settings, file: GinFile) -> None:
        self.blocks(settings).write_gin(file, self.sublayers)
        for macro, name in (
            ("DROPOUT_RATE", "mlp_dropout"),
            ("ATTENTION_DROPOUT_RATE", "attention_dropout"),
            ("EMBEDDING_DROPOUT_RATE", "embedding_dropout"),
        ):
            file.macro(macro, settings.number(name, 0.0))
        everywhere, local = Rotary.of(settings, FULL), Rotary.of(settings, SLIDING)
        file.macro("ROTARY_BASE", everywhere.base("global_rope_theta", 160000.0))
        file.macro("LOCAL_ROTARY_BASE", local.base("local_rope_theta", 10000.0))
        everywhere.write_scaling(file)
        local.write_scaling(file, _SCOPE)
        write_window(self.windows(settings), file, {"rotary": reference(f"@{_SCOPE}{ROTARY}()")})
        file.macro("NORM_EPSILON", settings.number("norm_eps", 1e-5))
        write_row_length(settings.integer("max_position_embeddings", 8192), file)
        maps = {"activation": self.function(settings), "use_bias": settings.is_set(self.map_bias)}
        file.bind(GATED, maps)
        has_bias = settings.is_set(self.has_bias)
        file.bind("transformer.AttentionHeads", {"use_bias": has_bias, "use_output_bias": has_bias})
        has_bias = settings.flag("norm_bias", default=False)
        file.bind("transformer.LayerNorm", {"use_bias": has_bias})

    def write_head_transforms(self, settings: Settings, file: GinFile) -> list[str]:
        function = settings.activation("classifier_activation", "gelu")
        has_bias = settings.flag("classifier_bias", default=False)
        file.bind("transformer.DenseTransform", {"activation": function, "use_bias": has_bias})
        head = ["transformer.DenseTransform", "transformer.LayerNorm"]
        if task_of(settings) == TEXTS:
            settings.require("classifier_pooling", "cls", "mean")
            if settings.text("classifier_pooling", "cls") == "mean":
                head.insert(0, "transformer.MeanOverLength")
        return head

    def write_softmax(self, settings: Settings, file: GinFile) -> None:
        has_bias = settings.flag("decoder_bias", default=True)
        softmax = {"tied_softmax": self.is_tied(settings), "softmax_bias": has_bias}
        file.bind("transformer.TokenEmbedding", softmax)

    def layer(self, settings: Settings, theirs: str, paths: Sequence[str]) -> Iterator[Row]:
        is_first = theirs.endswith("layers.0")  # which has the norm of the embedding
        for row in super().layer(settings, theirs, paths):
            if not (is_first and ".attn_norm." in row.names[0]):
                yield row

    def norm(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        yield Row(f"{theirs}.weight", f"{ours}/scale", Same())
        if settings.flag("norm_bias", default=False):
            yield Row(f"{theirs}.bias", f"{ours}/bias", Same())

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks.of_windows(self.windows(settings), GATED, "encoder_stack")

    def windows(self, settings: Settings) -> Sequence[int | None]:
        """Returns the window of each layer, with the position itself; None for all positions."""

        def has_window(layer: int) -> bool:
            return layer % settings.integer("global_attn_every_n_layers", 3) != 0

        window = settings.integer("local_attention", 128) // 2 + 1
        return windows_by_rule(settings, window, has_window)
