"""Mixtral: Mistral with mixtures of experts. Jiang et al. 2024, arXiv:2401.04088."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from mtfrun.configuration.gin_values import reference
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.families.llama import Mistral
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.tensor_table import Matrix, Row, Shape, Stacked, reshape

# The kernels of an expert: the activated one, its factor, the output's.
_NAMES = ("w1", "w3", "w2")


class Mixtral(Mistral):
    """Mistral whose tokens go to the best of many experts; none are dropped."""

    model_types: ClassVar[Sequence[str]] = ("mixtral",)
    architectures: ClassVar[Sequence[str]] = ("MixtralForCausalLM",)
    name: ClassVar[str] = "Mixtral"
    default_window: ClassVar[int | None] = None
    rotary_base: ClassVar[float] = 1e6
    shipped_file: ClassVar[str] = "models/mixtral.gin"
    sublayer: ClassVar[str] = "moe.DroplessMoE"

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        choices = settings.integer("num_experts_per_tok", 2)
        file.macro("NUM_EXPERTS", settings.count("num_local_experts", 8))
        file.macro("EXPERTS_PER_TOKEN", choices)
        if settings.flag("output_router_logits", default=False):
            # transformers' loss is the number of choices where the load is uniform, and a mean over
            # all layers; ours is 1, and a sum over them.
            coefficient = settings.number("router_aux_loss_coef", 0.001) * choices
            layers = settings.count("num_hidden_layers")
            comment = "for each layer; transformers has one for all of them"
            file.macro("BALANCE_LOSS", coefficient / layers, comment)
        noise = settings.number("router_jitter_noise", 0.0)
        if noise:
            file.bind("moe.Router", {"input_noise": reference("@moe.Jitter()")})
            file.bind("moe.Jitter", {"epsilon": noise})
        name = settings.text("hidden_act", "silu")
        if name not in ("silu", "swish"):
            function = settings.activation("hidden_act", name)
            file.bind("moe.Experts", {"activations": [function, None]})

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        experts = f"{ours}/experts"
        paths = [f"{experts}/{name}/kernel" for name in ("wi/factors/0", "wi/factors/1", "wo")]
        fused = f"{theirs}.mlp.experts"
        if f"{fused}.down_proj" in settings.tensors:
            # The form in which version 5 computes, and which it saves on request.
            yield Row(f"{theirs}.mlp.gate.weight", f"{ours}/router/kernel", Matrix())
            yield Row(f"{fused}.gate_up_proj", paths[:2], _FusedExperts())
            yield Row(f"{fused}.down_proj", paths[2], _FusedExperts())
            return
        mixture = f"{theirs}.block_sparse_moe"
        yield Row(f"{mixture}.gate.weight", f"{ours}/router/kernel", Matrix())
        numbers = range(settings.count("num_local_experts", 8))
        for name, path in zip(_NAMES, paths, strict=True):
            names = [f"{mixture}.experts.{number}.{name}.weight" for number in numbers]
            yield Row(names, path, Stacked(Matrix()))


class _FusedExperts:
    """One tensor [experts, outputs, inputs] with the outputs of one or two kernels."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        (value,) = theirs
        experts, inputs, outputs = shapes[0]
        value = reshape(value, (experts, outputs * len(shapes), inputs))
        return [part.swapaxes(1, 2) for part in np.split(value, len(shapes), axis=1)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate([value.swapaxes(1, 2) for value in ours], axis=1)]
