"""ModernBERT: rotary positions, windows and gates. Warner et al. 2024, arXiv:2412.13663."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoders.bert import Bert
from mtfrun.extras.huggingface.families.encoders.tasks import (
    MASKED,
    SPANS,
    TEXTS,
    WORDS,
    Head,
    task_of,
)
from mtfrun.extras.huggingface.families.llama.llama import FULL, SLIDING, windows_by_rule
from mtfrun.extras.huggingface.family import (
    GATED,
    GLOBAL,
    LOCAL,
    Blocks,
    write_row_length,
    write_window,
)
from mtfrun.extras.huggingface.tables.rotary import ROTARY, Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    Joined,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
)

_SCOPE = "local/"


class ModernBert(Bert):
    """Norms before the sublayers, except the first; fused projections."""

    shipped_file = "extras/huggingface/models/modernbert.gin"
    sublayers = (*(GLOBAL, GATED, LOCAL, GATED, LOCAL, GATED),)
    activation = "hidden_activation"
    prefix = "model"
    words = "embeddings.tok_embeddings.weight"
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
        has_bias = settings.flag("mlp_bias", default=False)
        maps = {"activation": self.function(settings), "use_bias": has_bias}
        file.bind(GATED, maps)
        has_bias = settings.flag("attention_bias", default=False)
        file.bind("transformer.AttentionHeads", {"use_bias": has_bias, "use_output_bias": has_bias})
        has_bias = settings.flag("norm_bias", default=False)
        file.bind("transformer.LayerNorm", {"use_bias": has_bias})

    def write_head(self, settings: Settings, file: GinFile) -> None:
        function = settings.activation("classifier_activation", "gelu")
        has_bias = settings.flag("classifier_bias", default=False)
        file.bind("transformer.DenseTransform", {"activation": function, "use_bias": has_bias})
        head = ["transformer.DenseTransform", "transformer.LayerNorm"]
        task = task_of(settings)
        if task == SPANS:
            self.write_spans(settings, file, head)
        elif task == WORDS:
            self.write_labels(settings, file, head)
        elif task == MASKED:
            has_bias = settings.flag("decoder_bias", default=True)
            softmax = {"tied_softmax": self.is_tied(settings), "softmax_bias": has_bias}
            file.bind("transformer.TokenEmbedding", softmax)
        if task != TEXTS:
            return
        settings.require("classifier_pooling", "cls", "mean")
        if settings.text("classifier_pooling", "cls") == "mean":
            head.insert(0, "transformer.MeanOverLength")
        self.write_labels(settings, file, head)

    def table(self, settings: Settings) -> TensorTable:
        start, blocks = self.start(settings), self.blocks(settings)
        words = VocabularyRows(settings.integer("vocab_size"))
        rows = [Row(f"{start}{self.words}", "embedding/table", words)]
        rows += self.norm(settings, f"{start}embeddings.norm", "encoder_stack/norm")
        for layer in range(len(blocks.layers)):
            rows += self.layer(settings, f"{start}layers.{layer}", blocks.paths(layer))
            if layer:
                path = f"{blocks.paths(layer)[0]}/norm"
                rows += self.norm(settings, f"{start}layers.{layer}.attn_norm", path)
        rows += self.norm(settings, f"{start}final_norm", "encoder_stack/final_norm")
        return TensorTable([*rows, *self.head(settings)])

    def layer(self, settings: Settings, theirs: str, paths: Sequence[str]) -> Iterator[Row]:
        attention, maps = f"{paths[0]}/layer/attention", f"{paths[1]}/layer"
        names = [f"{attention}/{name}" for name in ("query", "key", "value")]
        yield Row(f"{theirs}.attn.Wqkv.weight", names, Joined(Matrix()))
        yield Row(f"{theirs}.attn.Wo.weight", f"{attention}/output", Matrix(inputs=2))
        if settings.flag("attention_bias", default=False):
            biases = [f"{name}_bias" for name in names]
            yield Row(f"{theirs}.attn.Wqkv.bias", biases, Joined(Flat()))
            yield Row(f"{theirs}.attn.Wo.bias", f"{attention}/output_bias", Same())
        inner = [f"{maps}/{name}" for name in ("wi_0", "wi_1")]
        kernels = [f"{name}/kernel" for name in inner]
        yield Row(f"{theirs}.mlp.Wi.weight", kernels, Joined(Matrix()))
        yield Row(f"{theirs}.mlp.Wo.weight", f"{maps}/wo/kernel", Matrix())
        if settings.flag("mlp_bias", default=False):
            biases = [f"{name}/bias" for name in inner]
            yield Row(f"{theirs}.mlp.Wi.bias", biases, Joined(Same()))
            yield Row(f"{theirs}.mlp.Wo.bias", f"{maps}/wo/bias", Same())
        yield from self.norm(settings, f"{theirs}.mlp_norm", f"{paths[1]}/norm")

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
