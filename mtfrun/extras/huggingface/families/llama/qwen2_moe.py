"""Llama with mixtures of experts: Mixtral, Qwen2, Qwen3, OLMoE; no tokens are dropped.

Jiang et al. 2024, arXiv:2401.04088; Yang et al. 2024, arXiv:2407.10671, and 2025, arXiv:2505.09388;
Muennighoff et al. 2024, arXiv:2409.02060.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.llama.llama import (
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    used_window,
    windows_by_rule,
)
from mtfrun.extras.huggingface.family import GATED, GLOBAL, LOCAL, MIXTURE, PARALLEL, Blocks
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Flat,
    HeadRows,
    Joined,
    Matrix,
    Permuted,
    Row,
    Stacked,
)

_NAMES = ("gate_proj", "up_proj", "down_proj")


class Mixtral(Mistral):
    default_window = None
    rotary_base = ("rope_theta", 1e6)
    file = "mixtral"
    feed_forward_class = MIXTURE
    sublayers = (GLOBAL, MIXTURE)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        write_mixture(settings, file, num_experts=_num_local_experts(settings), choices=2)
        noise = settings.number("router_jitter_noise", 0.0)
        if noise:
            file.bind("moe.Router", {"input_noise": reference("@moe.Jitter()")})
            file.bind("moe.Jitter", {"epsilon": noise})

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        # Version 5 has another name for the fused form.
        is_fused = f"{theirs}.mlp.experts.down_proj" in settings.tensors
        mixture = f"{theirs}.{'mlp' if is_fused else 'block_sparse_moe'}"
        number = _num_local_experts(settings)
        yield from expert_rows(settings, mixture, ours, number, ("w1", "w3", "w2"))


class Olmoe(Llama):
    """Llama with mixtures, and norms of all heads' queries and keys together."""

    file = "olmoe"
    feed_forward_class = MIXTURE
    sublayers = (GLOBAL, MIXTURE)
    epsilon = ("rms_norm_eps", 1e-5)
    num_positions = ("max_position_embeddings", 4096)
    head_norm = Flat()

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        settings.require("clip_qkv", None)
        write_mixture(settings, file, num_experts=settings.count("num_experts", 64), choices=8)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        number = settings.count("num_experts", 64)
        yield from expert_rows(settings, f"{theirs}.mlp", ours, number)


class Qwen3Moe(Qwen3):
    """Mixtures in all or some layers."""

    file = "qwen3_moe"
    sublayers = (GLOBAL, MIXTURE)
    head_size = None

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", 768))
        write_mixture(settings, file, num_experts=num_experts(settings, 128), choices=8)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})

    def blocks(self, settings: Settings) -> Blocks:
        return blocks_with_mixtures(settings, self.windows(settings), MIXTURE)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        return [used_window(settings, 4096)] * settings.count("num_hidden_layers")

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        if "/moe_1d" not in ours:
            return super().feed_forward(settings, theirs, ours)
        return expert_rows(settings, f"{theirs}.mlp", ours, num_experts(settings, 128))


class Qwen2Moe(Qwen2):
    """Mixtures beside an expert for all tokens."""

    file = "qwen2_moe"
    usual_biases = (True, False)
    sublayers = (GLOBAL, PARALLEL)
    num_positions = ("max_position_embeddings", 32768)
    biases = (("qkv_bias", True), False)

    def write_feed_forward(self, settings: Settings, file: GinFile) -> None:
        super().write_feed_forward(settings, file)
        file.macro("EXPERT_D_FF", settings.integer("moe_intermediate_size", 1408))
        file.macro("SHARED_D_FF", settings.integer("shared_expert_intermediate_size", 5632))
        write_mixture(settings, file, num_experts=num_experts(settings, 60), choices=4)
        file.bind("moe.TopK", {"normalise": settings.flag("norm_topk_prob", default=False)})
        function = settings.activation(*self.activation)
        if str(function) != "@mtf.swish":
            file.bind("moe.SharedExpert", {"activation": function})

    def blocks(self, settings: Settings) -> Blocks:
        return blocks_with_mixtures(settings, self.windows(settings), PARALLEL)

    def windows(self, settings: Settings) -> Sequence[int | None]:
        def has_window(layer: int) -> bool:
            return layer % 2 == 0 and layer < settings.non_negative("max_window_layers", 28)

        return windows_by_rule(settings, used_window(settings, 4096), has_window)

    def feed_forward(self, settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
        if "/parallel" not in ours:
            yield from super().feed_forward(settings, theirs, ours)
            return
        mixture, shared = (f"{ours}/layers/{name}/layer" for name in ("moe_1d", "shared_expert"))
        yield from expert_rows(settings, f"{theirs}.mlp", mixture, num_experts(settings, 60))
        gate = f"{theirs}.mlp.shared_expert_gate.weight"
        yield Row(gate, f"{shared}/gate/kernel", HeadRows())
        rows = super().feed_forward(settings, theirs, shared)
        yield from shared_rows(rows, "shared_expert")


def _num_local_experts(settings: Settings) -> int:
    return settings.count("num_local_experts", 8)


def num_experts(settings: Settings, default: int, name: str = "num_experts") -> int:
    name = "num_local_experts" if "num_local_experts" in settings.values else name
    return settings.count(name, default)


def blocks_with_mixtures(settings: Settings, windows: Sequence[int | None], mixture: str) -> Blocks:
    """Returns blocks of layers with `mixture` or a gated feed-forward layer."""
    step = settings.integer("decoder_sparse_step", 1)
    dense = settings.values.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise settings.error("mlp_only_layers", "must be a list of layers")
    have_experts = [i not in dense and (i + 1) % step == 0 for i in range(len(windows))]
    layers = zip(windows, have_experts, strict=True)
    return Blocks([(LOCAL if x else GLOBAL, mixture if y else GATED) for x, y in layers])


def write_mixture(settings: Settings, file: GinFile, *, num_experts: int, choices: int) -> None:
    """Adds the experts and their balancing loss; choices: the default experts per token."""
    choices = settings.integer("num_experts_per_tok", choices)
    file.macro("NUM_EXPERTS", num_experts)
    file.macro("EXPERTS_PER_TOKEN", choices)
    if settings.flag("output_router_logits", default=False):
        # With a uniform load, transformers' loss is the number of choices, and a mean over layers;
        # ours is 1, and a sum.
        coefficient = settings.number("router_aux_loss_coef", 0.001) * choices
        layers = settings.count("num_hidden_layers")
        comment = "for each layer; transformers has one for all of them"
        file.macro("BALANCE_LOSS", coefficient / layers, comment)
    function = settings.activation("hidden_act", "silu")
    if str(function) != "@mtf.swish":
        file.bind("moe.Experts", {"activations": [function, None]})


def expert_rows(
    settings: Settings, theirs: str, ours: str, num_experts: int, names: Sequence[str] = _NAMES
) -> Iterator[Row]:
    """Yields the tensors of the mixture "model.layers.0.mlp".

    names: an expert's gate, up and down kernels. Version 5 may save all experts in one tensor.
    """
    experts = f"{ours}/experts"
    paths = [f"{experts}/{name}/kernel" for name in ("wi/factors/0", "wi/factors/1", "wo")]
    yield Row(f"{theirs}.gate.weight", f"{ours}/router/kernel", Matrix())
    if f"{theirs}.experts.down_proj" in settings.tensors:
        fused = Joined(Permuted((0, 2, 1)), axis=1)
        yield Row(f"{theirs}.experts.gate_up_proj", paths[:2], fused)
        yield Row(f"{theirs}.experts.down_proj", paths[2], fused)
        return
    for name, path in zip(names, paths, strict=True):
        tensors = [f"{theirs}.experts.{i}.{name}.weight" for i in range(num_experts)]
        yield Row(tensors, path, Stacked(Matrix()))


def shared_rows(rows: Iterable[Row], name: str) -> Iterator[Row]:
    """Renames the tensors of a feed-forward layer to those of a shared expert."""
    for row in rows:
        names = [each.replace(".mlp.", f".mlp.{name}.") for each in row.names]
        yield Row(names, row.paths, row.transform)
