"""GPT-J: Phi without biases of attention, with pairs that rotate side by side in a head.

Wang and Komatsuzaki 2021, https://github.com/kingoflolz/mesh-transformer-jax.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.gpt.phi import Phi
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, halves_of_pairs


class GPTJ(Phi):
    model_types: ClassVar[Sequence[str]] = ("gptj",)
    architectures: ClassVar[Sequence[str]] = ("GPTJForCausalLM",)
    name: ClassVar[str] = "GPT-J"
    shipped_file: ClassVar[str] = "extras/huggingface/models/gptj.gin"
    width: ClassVar[str] = "n_embd"
    num_heads: ClassVar[str] = "n_head"
    num_layers: ClassVar[str] = "n_layer"
    d_ff: ClassVar[str] = "n_inner"
    num_positions: ClassVar[str] = "n_positions"
    epsilon: ClassVar[str] = "layer_norm_epsilon"
    activation: ClassVar[tuple[str, str]] = ("activation_function", "gelu_new")
    rates: ClassVar[Sequence[str]] = ("resid_pdrop", "attn_pdrop", "embd_pdrop")
    embedding: ClassVar[str] = "transformer.wte.weight"
    last_norm: ClassVar[str] = "transformer.ln_f"
    layers: ClassVar[str] = "transformer.h"
    norm: ClassVar[str] = "ln_1"
    maps: ClassVar[tuple[str, str]] = ("fc_in", "fc_out")
    kept: ClassVar[str] = r"transformer\.h\.\d+\.attn\.(masked_)?bias"

    def write_attention(self, settings: Settings, file: GinFile) -> None:
        rotated, size = self._sizes(settings)
        file.macro("ROTATED", None if rotated == size else rotated)

    def attention(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        order = halves_of_pairs(*self._sizes(settings))
        for name in ("query", "key", "value"):
            row = Row(f"{theirs}.attn.{name[0]}_proj.weight", f"{ours}/{name}", Matrix())
            yield row if name == "value" else row.in_order(order)
        yield Row(f"{theirs}.attn.out_proj.weight", f"{ours}/output", Matrix(inputs=2))

    def _sizes(self, settings: Settings) -> tuple[int, int]:
        """Returns how many entries of a head rotate, and its size."""
        size = settings.integer(self.width) // settings.integer(self.num_heads)
        rotated = settings.integer("rotary_dim", 64)
        if rotated > size or rotated % 2:
            raise settings.error("rotary_dim", f"must be even and at most {size}, as a head has")
        return rotated, size
