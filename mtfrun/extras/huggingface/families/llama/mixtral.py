"""Mixtral: Mistral with mixtures of experts. Jiang et al. 2024, arXiv:2401.04088."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import numpy as np

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import Mistral
from mtfrun.extras.huggingface.family import GLOBAL
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, Shape, Stacked, reshape

MIXTURE = "moe.DroplessMoE"
_NAMES = ("w1", "w3", "w2")


class Mixtral(Mistral):
    """Mistral whose tokens go to the best of many experts; none are dropped."""

    model_types: ClassVar[Sequence[str]] = ("mixtral",)
    architectures: ClassVar[Sequence[str]] = ("MixtralForCausalLM",)
    name: ClassVar[str] = "Mixtral"
    default_window: ClassVar[int | None] = None
    rotary_base: ClassVar[float] = 1e6
    shipped_file: ClassVar[str] = "extras/huggingface/models/mixtral.gin"
    feed_forward_class: ClassVar[str] = MIXTURE
    sublayers: ClassVar[Sequence[str]] = (GLOBAL, MIXTURE)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        write_mixture(settings, file, num_experts=_num_experts(settings), choices=2)
        noise = settings.number("router_jitter_noise", 0.0)
        if noise:
            file.bind("moe.Router", {"input_noise": reference("@moe.Jitter()")})
            file.bind("moe.Jitter", {"epsilon": noise})

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        # Version 5 saves the fused form under another name.
        is_fused = f"{theirs}.mlp.experts.down_proj" in settings.tensors
        mixture = f"{theirs}.{'mlp' if is_fused else 'block_sparse_moe'}"
        yield from expert_rows(settings, mixture, ours, _num_experts(settings), _NAMES)


def _num_experts(settings: Settings) -> int:
    return settings.count("num_local_experts", 8)


def write_mixture(settings: Settings, file: GinFile, *, num_experts: int, choices: int) -> None:
    """Adds the experts, and the loss that balances them; `choices`: where nothing is said."""
    choices = settings.integer("num_experts_per_tok", choices)
    file.macro("NUM_EXPERTS", num_experts)
    file.macro("EXPERTS_PER_TOKEN", choices)
    if settings.flag("output_router_logits", default=False):
        # transformers' loss is the number of choices where the load is uniform, and a mean over
        # all layers; ours is 1, and a sum over them.
        coefficient = settings.number("router_aux_loss_coef", 0.001) * choices
        layers = settings.count("num_hidden_layers")
        comment = "for each layer; transformers has one for all of them"
        file.macro("BALANCE_LOSS", coefficient / layers, comment)
    name = settings.text("hidden_act", "silu")
    if name not in ("silu", "swish"):
        function = settings.activation("hidden_act", name)
        file.bind("moe.Experts", {"activations": [function, None]})


def expert_rows(
    settings: Settings,
    theirs: str,
    ours: str,
    num_experts: int,
    names: Sequence[str] = ("gate_proj", "up_proj", "down_proj"),
) -> Iterator[Row]:
    """Yields the tensors of the mixture "model.layers.0.mlp".

    `names` belong to the kernels of an expert: the activated one, its factor, the output's.
    Version 5 computes with the kernels of all experts in one tensor, and saves them on request.
    """
    experts = f"{ours}/experts"
    paths = [f"{experts}/{name}/kernel" for name in ("wi/factors/0", "wi/factors/1", "wo")]
    yield Row(f"{theirs}.gate.weight", f"{ours}/router/kernel", Matrix())
    if f"{theirs}.experts.down_proj" in settings.tensors:
        yield Row(f"{theirs}.experts.gate_up_proj", paths[:2], _FusedExperts())
        yield Row(f"{theirs}.experts.down_proj", paths[2], _FusedExperts())
        return
    for name, path in zip(names, paths, strict=True):
        of_experts = [f"{theirs}.experts.{i}.{name}.weight" for i in range(num_experts)]
        yield Row(of_experts, path, Stacked(Matrix()))


def shared_rows(rows: Iterable[Row], name: str) -> Iterator[Row]:
    """Yields the tensors of a feed-forward layer under the name of an expert for all tokens."""
    for row in rows:
        names = [each.replace(".mlp.", f".mlp.{name}.") for each in row.names]
        yield Row(names, row.paths, row.transform)


class _FusedExperts:
    """One tensor [experts, outputs, inputs] with the outputs of one or two kernels."""

    def to_ours(self, theirs: Sequence[np.ndarray], shapes: Sequence[Shape]) -> list[np.ndarray]:
        (value,) = theirs
        experts, inputs, outputs = shapes[0]
        value = reshape(value, (experts, outputs * len(shapes), inputs))
        return [part.swapaxes(1, 2) for part in np.split(value, len(shapes), axis=1)]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [np.concatenate([value.swapaxes(1, 2) for value in ours], axis=1)]
