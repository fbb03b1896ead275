"""Phi-1 and Phi-2: attention and feed-forward layer side by side behind one layer norm.

Gunasekar et al. 2023, arXiv:2306.11644; Li et al. 2023, arXiv:2309.05463.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import output_inputs
from mtfrun.extras.huggingface.family import (
    GLOBAL,
    PARALLEL,
    Blocks,
    TextFamily,
    parallel_paths,
    write_row_length,
    write_text_data,
)
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    Matrix,
    Row,
    Same,
    TensorTable,
    VocabularyRows,
    norm_rows,
)

LAYERS = (GLOBAL, "transformer.FeedForward")


class Phi(TextFamily):
    """`width` to `rates` are names of settings, with defaults; `embedding` to `layers` of tensors.

    A layer has `norm`, and its feed-forward layer the `maps`.
    """

    model_types: ClassVar[Sequence[str]] = ("phi",)
    architectures: ClassVar[Sequence[str]] = ("PhiForCausalLM",)
    name: ClassVar[str] = "Phi"
    pad_id: ClassVar[int] = -1
    shipped_file: ClassVar[str] = "extras/huggingface/models/phi.gin"
    sublayers: ClassVar[Sequence[str]] = (PARALLEL,)
    has_softmax_bias: ClassVar[bool] = True
    is_tied_by_default: ClassVar[bool] = False
    width: ClassVar[str] = "hidden_size"
    num_heads: ClassVar[str] = "num_attention_heads"
    num_layers: ClassVar[str] = "num_hidden_layers"
    d_ff: ClassVar[str] = "intermediate_size"
    num_positions: ClassVar[str] = "max_position_embeddings"
    epsilon: ClassVar[str] = "layer_norm_eps"
    activation: ClassVar[tuple[str, str]] = ("hidden_act", "gelu_new")
    rates: ClassVar[Sequence[str]] = ("resid_pdrop", "attention_dropout", "embd_pdrop")
    embedding: ClassVar[str] = "model.embed_tokens.weight"
    softmax: ClassVar[str] = "lm_head"
    last_norm: ClassVar[str] = "model.final_layernorm"
    layers: ClassVar[str] = "model.layers"
    norm: ClassVar[str] = "input_layernorm"
    maps_name: ClassVar[str] = "mlp."
    maps: ClassVar[tuple[str, str]] = ("fc1", "fc2")
    kept: ClassVar[str] = r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq"

    def ties(self, settings: Settings) -> Mapping[str, str]:
        is_tied = settings.flag("tie_word_embeddings", default=self.is_tied_by_default)
        return {f"{self.softmax}.weight": self.embedding} if is_tied else {}

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        width, num_heads = settings.integer(self.width), settings.integer(self.num_heads)
        file.include(self.shipped_file)
        write_text_data(file, "data/text_files.gin")
        file.gap()
        self.blocks(settings).write_gin(file, self.sublayers)
        if width % num_heads:
            raise settings.error(self.num_heads, f"must divide {width}, the size of all heads")
        settings.require("head_dim", width // num_heads)
        file.macro("D_MODEL", width)
        file.macro("D_FF", settings.optional_integer(self.d_ff) or 4 * width)
        file.macro("NUM_HEADS", num_heads)
        file.macro("D_KV", width // num_heads)
        file.macro("NORM_EPSILON", settings.number(self.epsilon, 1e-5))
        macros = ("DROPOUT_RATE", "ATTENTION_DROPOUT_RATE", "EMBEDDING_DROPOUT_RATE")
        for macro, name in zip(macros, self.rates, strict=False):
            file.macro(macro, settings.number(name, 0.0))
        write_row_length(settings.integer(self.num_positions, 2048), file)
        setting, usual = self.activation
        function = settings.activation(setting, settings.text(setting, usual))
        if str(function) != str(settings.activation(setting, usual)):
            file.bind("transformer.FeedForward", {"activation": function})
        if self.is_tied(settings) != self.is_tied_by_default:
            tied = not self.is_tied_by_default
            file.bind("transformer.TokenEmbedding", {"tied_softmax": tied})
        self.write_attention(settings, file)

    def module_of(self, tensor: str, settings: Settings) -> str:
        name = super().module_of(tensor, settings)
        return f"{self._prefix(settings)}{name}"

    def table(self, settings: Settings) -> TensorTable:
        rows, prefix = self.rows(settings), self._prefix(settings)
        kept = [self.kept.removeprefix(re.escape(prefix))] if self.kept else []
        return TensorTable(
            [Row([x.removeprefix(prefix) for x in r.names], r.paths, r.transform) for r in rows],
            kept,
        )

    def rows(self, settings: Settings) -> Sequence[Row]:
        """Returns the rows of the table; the tensors are named as in the model with its softmax."""
        size, softmax = settings.integer("vocab_size"), f"{self.softmax}.weight"
        rows = [Row(self.embedding, "embedding/table", VocabularyRows(size))]
        if not self.is_tied(settings):
            rows.append(Row(softmax, "softmax/kernel", VocabularyRows(size, transposed=True)))
        if self.has_softmax_bias:
            rows.append(Row(f"{self.softmax}.bias", "softmax/bias", VocabularyRows(size)))
        blocks = self.blocks(settings)
        for layer in range(len(blocks.layers)):
            theirs, outer = f"{self.layers}.{layer}", blocks.paths(layer)
            inner = outer if len(outer) > 1 else parallel_paths(outer[0], *LAYERS)
            rows += self.norms(settings, theirs, outer, inner)
            rows += self.attention(settings, theirs, f"{inner[0]}/layer/attention")
            for name, ours in zip(self.maps, ("wi", "wo"), strict=True):
                path, name = f"{inner[1]}/layer/{ours}", f"{theirs}.{self.maps_name}{name}"
                rows.append(Row(f"{name}.weight", f"{path}/kernel", Matrix()))
                if self.has_biases(settings):
                    rows.append(Row(f"{name}.bias", f"{path}/bias", Same()))
        if self.has_last_norm(settings):
            rows += norm_rows(self.last_norm, "decoder_stack/final_norm")
        return rows

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([(PARALLEL,)] * settings.count(self.num_layers))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        """Adds positions, and what heads have."""
        heads, rotary = settings.integer(self.num_heads), Rotary.of(settings)
        size = settings.integer(self.width) // heads
        file.macro("NUM_MEMORY_HEADS", settings.integer("num_key_value_heads", heads))
        file.macro("ROTARY_BASE", rotary.base(10000.0))
        file.macro("ROTATED", rotary.rotated(size, 0.5))
        rotary.write_scaling(file)
        if settings.flag("qk_layernorm", default=False):
            norm = reference("@transformer.LayerNorm")
            file.bind("transformer.AttentionHeads", {"norm": norm})

    def has_biases(self, settings: Settings) -> bool:
        """Whether the maps of feed-forward layers have biases."""
        del settings
        return True

    def has_last_norm(self, settings: Settings) -> bool:
        """Whether there is a norm behind the last layer."""
        del settings
        return True

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        """Yields the norms of a layer; `inner` are the paths of its attention and its maps."""
        del settings, inner
        return norm_rows(f"{theirs}.{self.norm}", f"{outer[0]}/norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        """Yields the tensors of the attention of the layer "model.layers.0"."""
        prefix = f"{theirs}.self_attn"
        for name in ("query", "key", "value"):
            yield Row(f"{prefix}.{name[0]}_proj.weight", f"{ours}/{name}", Matrix())
            yield Row(f"{prefix}.{name[0]}_proj.bias", f"{ours}/{name}_bias", Flat())
        output = Matrix(inputs=output_inputs(settings))
        yield Row(f"{prefix}.dense.weight", f"{ours}/output", output)
        yield Row(f"{prefix}.dense.bias", f"{ours}/output_bias", Same())
        if settings.flag("qk_layernorm", default=False):
            for name in ("query", "key"):
                yield from norm_rows(f"{prefix}.{name[0]}_layernorm", f"{ours}/{name}_norm")

    def is_tied(self, settings: Settings) -> bool:
        return bool(self.ties(settings)) and f"{self.softmax}.weight" not in settings.tensors

    def _prefix(self, settings: Settings) -> str:
        """Returns what the names in a folder of the model without its softmax lack."""
        prefix = f"{self.embedding.partition('.')[0]}."
        has_prefix = any(name.startswith(prefix) for name in settings.tensors)
        return prefix if settings.tensors and not has_prefix else ""
