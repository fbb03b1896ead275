"""OPT: GPT-2 with relu. Zhang et al. 2022, arXiv:2205.01068."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.gpt.phi import LAYERS, Phi
from mtfrun.extras.huggingface.family import Blocks
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Flat, Matrix, Row, Same, norm_rows

_PREFIX = "model.decoder"
_COLUMNS = "word_embed_proj_dim"
_NORM_BEHIND = ("CallLayer", "SublayerDropout", "Residual", "LayerNorm")


class Opt(Phi):
    """The model of 350 million parameters has a factorised embedding, and norms behind sublayers.

    Models that were fine-tuned before transformers 4.20.1 lack the norm behind the last layer.
    """

    model_types: ClassVar[Sequence[str]] = ("opt",)
    architectures: ClassVar[Sequence[str]] = ("OPTForCausalLM",)
    name: ClassVar[str] = "OPT"
    shipped_file: ClassVar[str] = "extras/huggingface/models/opt.gin"
    sublayers: ClassVar[Sequence[str]] = LAYERS
    has_softmax_bias: ClassVar[bool] = False
    is_tied_by_default: ClassVar[bool] = True
    d_ff: ClassVar[str] = "ffn_dim"
    activation: ClassVar[tuple[str, str]] = ("activation_function", "relu")
    rates: ClassVar[Sequence[str]] = ("dropout", "attention_dropout")
    embedding: ClassVar[str] = f"{_PREFIX}.embed_tokens.weight"
    last_norm: ClassVar[str] = f"{_PREFIX}.final_layer_norm"
    layers: ClassVar[str] = f"{_PREFIX}.layers"
    maps: ClassVar[tuple[str, str]] = ("fc1", "fc2")
    maps_name: ClassVar[str] = ""
    kept: ClassVar[str] = ""

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        for name in ("enable_bias", "layer_norm_elementwise_affine"):
            settings.require(name, *(True,))
        super().write_gin(settings, file)
        embedding = {"max_length": settings.integer(self.num_positions, 2048)}
        if _is_factorised(settings):
            if not self.is_tied(settings):
                raise settings.error(
                    _COLUMNS, "is not supported beside a softmax that is not the embedding's table"
                )
            embedding["d_embedding"] = settings.integer(_COLUMNS)
        file.bind("transformer.TokenEmbedding", embedding)
        transforms: dict[str, object] = {}
        if not _has_norms_before(settings):
            transforms["layer"] = [reference(f"@transformer.{name}") for name in _NORM_BEHIND]
        if not self.has_last_norm(settings):
            transforms["final"] = []
        if transforms:
            file.bind("transformer.StackTransforms", transforms)

    def rows(self, settings: Settings) -> Sequence[Row]:
        rows = [Row(f"{_PREFIX}.embed_positions.weight", "position/table", Same())]
        if _is_factorised(settings):
            for theirs, ours in (("project_in", "embedding"), ("project_out", "softmax")):
                path = f"{ours}/projection/kernel"
                rows.append(Row(f"{_PREFIX}.{theirs}.weight", path, Matrix()))
        return [*super().rows(settings), *rows]

    def has_last_norm(self, settings: Settings) -> bool:
        is_removed = settings.flag("_remove_final_layer_norm", default=False)
        return _has_norms_before(settings) and not is_removed

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count(self.num_layers))

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        """Adds nothing: there are no variants."""

    def norms(
        self, settings: Settings, theirs: str, outer: Sequence[str], inner: Sequence[str]
    ) -> Iterator[Row]:
        for name, path in zip(("self_attn", "final"), outer, strict=True):
            yield from norm_rows(f"{theirs}.{name}_layer_norm", f"{path}/norm")

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        prefix = f"{theirs}.self_attn"
        for name in ("query", "key", "value"):
            yield Row(f"{prefix}.{name[0]}_proj.weight", f"{ours}/{name}", Matrix())
            yield Row(f"{prefix}.{name[0]}_proj.bias", f"{ours}/{name}_bias", Flat())
        yield Row(f"{prefix}.out_proj.weight", f"{ours}/output", Matrix(inputs=2))
        yield Row(f"{prefix}.out_proj.bias", f"{ours}/output_bias", Same())


def _is_factorised(settings: Settings) -> bool:
    width = settings.integer(Opt.width)
    return settings.integer(_COLUMNS, width) != width


def _has_norms_before(settings: Settings) -> bool:
    return settings.flag("do_layer_norm_before", default=True)
