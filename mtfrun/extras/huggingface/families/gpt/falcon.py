"""Falcon: Phi without biases, with few heads of keys and values.

Almazrouei et al. 2023, arXiv:2311.16867.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.gpt.phi import LAYERS, Phi
from mtfrun.extras.huggingface.family import PARALLEL, Blocks
from mtfrun.extras.huggingface.tables.rotary import Rotary
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    Joined,
    JoinedByHead,
    Matrix,
    Row,
    Same,
    Transform,
    norm_rows,
)

_DISTANCES = "transformer.LinearDistanceBias"
_STACK, _PARALLEL = ("transformer.StackTransforms", "layer"), (PARALLEL, "transforms")


class Falcon(Phi):
    """One memory head, as many as heads, or, in the "new decoder architecture", any number."""

    model_types: ClassVar[Sequence[str]] = ("falcon",)
    architectures: ClassVar[Sequence[str]] = ("FalconForCausalLM",)
    name: ClassVar[str] = "Falcon"
    shipped_file: ClassVar[str] = "extras/huggingface/models/falcon.gin"
    has_softmax_bias: ClassVar[bool] = False
    is_tied_by_default: ClassVar[bool] = True
    d_ff: ClassVar[str] = "ffn_hidden_size"
    epsilon: ClassVar[str] = "layer_norm_epsilon"
    activation: ClassVar[tuple[str, str]] = ("activation", "gelu")
    rates: ClassVar[Sequence[str]] = ("hidden_dropout", "attention_dropout")
    embedding: ClassVar[str] = "transformer.word_embeddings.weight"
    last_norm: ClassVar[str] = "transformer.ln_f"
    layers: ClassVar[str] = "transformer.h"
    maps: ClassVar[tuple[str, str]] = ("dense_h_to_4h", "dense_4h_to_h")
    kept: ClassVar[str] = r"transformer\.h\.\d+\.self_attention\.rotary_emb\.inv_freq"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        super().write_gin(settings, file)
        if not _is_parallel(settings):
            _write_transforms(file, _STACK, "LayerNorm", "CallLayer", "SublayerDropout", "Residual")
        elif _num_norms(settings) == 2:
            _write_transforms(file, _STACK, "CallLayer", "Residual")
            _write_transforms(file, _PARALLEL, "LayerNorm", "CallLayer", "SublayerDropout")

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        file.macro("NUM_MEMORY_HEADS", self._memory_heads(settings))
        if settings.flag("alibi", default=False):
            self._write_distances(settings, file)
        else:
            rotary = Rotary.of(settings)
            rotary.require_whole_heads()
            file.macro("ROTARY_BASE", rotary.base(10000.0))
            rotary.write_scaling(file)
        if self.has_biases(settings):
            biases = {"use_bias": True, "use_output_bias": True}
            file.bind("transformer.AttentionHeads", biases)
            file.bind("transformer.FeedForward", {"use_bias": True})

    def _write_distances(self, settings: Settings, file: GinFile) -> None:
        """Adds ALiBi, which transformers rounds to bfloat16 and scales as the logits."""
        heads = settings.integer(self.num_heads)
        scale = (settings.integer(self.width) // heads) ** -0.5
        file.bind("transformer.SelfAttention", {"rotary": False})
        file.bind("transformer.Stack", {"relative_bias": reference(f"@{_DISTANCES}")})
        file.bind(
            _DISTANCES, {"num_heads": reference("%NUM_HEADS"), "scale": scale, "in_bfloat16": True}
        )

    def blocks(self, settings: Settings) -> Blocks:
        layer = (PARALLEL,) if _is_parallel(settings) else LAYERS
        return Blocks([layer] * settings.count(self.num_layers))

    def has_biases(self, settings: Settings) -> bool:
        return settings.flag("bias", default=False)

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        names: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
        paths = outer
        if _is_parallel(settings) and _num_norms(settings) == 2:
            names, paths = ("ln_attn", "ln_mlp"), inner
        for name, path in zip(names, paths, strict=False):
            yield from norm_rows(f"{theirs}.{name}", f"{path}/norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        prefix = f"{theirs}.self_attention"
        heads, memory_heads = settings.integer(self.num_heads), self._memory_heads(settings)
        paths = [f"{ours}/{name}" for name in ("query", "key", "value")]

        def joined(each: Transform) -> Transform:
            return Joined(0, each) if memory_heads == 1 else JoinedByHead(memory_heads, each)

        yield Row(f"{prefix}.query_key_value.weight", paths, joined(Matrix()))
        inputs = 2 if memory_heads in (1, heads) else 3
        yield Row(f"{prefix}.dense.weight", f"{ours}/output", Matrix(inputs=inputs))
        if self.has_biases(settings):
            biases = [f"{path}_bias" for path in paths]
            yield Row(f"{prefix}.query_key_value.bias", biases, joined(Flat()))
            yield Row(f"{prefix}.dense.bias", f"{ours}/output_bias", Same())

    def _memory_heads(self, settings: Settings) -> int:
        heads = settings.integer(self.num_heads)
        if settings.flag("new_decoder_architecture", default=False):
            return settings.integer("num_kv_heads", heads)
        return 1 if settings.flag("multi_query", default=True) else heads


def _write_transforms(file: GinFile, place: tuple[str, str], *names: str) -> None:
    target, parameter = place
    file.bind(target, {parameter: [reference(f"@transformer.{name}") for name in names]})


def _is_parallel(settings: Settings) -> bool:
    is_new = settings.flag("new_decoder_architecture", default=False)
    return is_new or settings.flag("parallel_attn", default=True)


def _num_norms(settings: Settings) -> int:
    """Of a layer with attention and feed-forward layer side by side."""
    if not settings.flag("new_decoder_architecture", default=False):
        return 1
    return settings.integer("num_ln_in_parallel_attn", 2)
