"""Switch Transformers: T5 with experts in some blocks. Fedus et al. 2021, arXiv:2101.03961."""

from __future__ import annotations

import re

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import CROSS, EMBEDDING_COPIES, T5
from mtfrun.extras.huggingface.family import FEED_FORWARD, GLOBAL, MIXTURE, Blocks, classes
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    Matrix,
    Stacked,
    TensorTable,
    VocabularyRows,
)


class SwitchTransformers(T5):
    """T5 1.0 with a mixture of experts in every n-th block."""

    unused = ()
    shipped_files = ("models/t5.1.0.gin",) * 2
    feed_forward_name = "mlp"
    scaling = "tie_word_embeddings"

    def write_gin(self, file: GinFile) -> None:
        self.settings.require("router_bias", *(False,))
        self.settings.require("router_dtype", "float32")
        super().write_gin(file)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.is_gated = False
        capacity = settings.integer("expert_capacity", 64)
        self.notes.append(
            f"expert_capacity={capacity}: transformers drops the further tokens of an expert, "
            "which are kept here"
        )
        # Untied models of version 5 have two, and an unused shared embedding.
        self.has_two_embeddings = all(name in settings.tensors for name in EMBEDDING_COPIES)

    @property
    def is_scaled(self) -> bool:
        return self.settings.flag("tie_word_embeddings", default=True)

    def write_layers(self, file: GinFile) -> None:
        if self.has_two_embeddings:
            size = {"inputs_vocabulary_size": self.settings.integer("vocab_size")}
            file.bind("transformer.EncoderDecoder", size)
        function = self.settings.activation("dense_act_fn", "relu")
        for stack in self.stacks:
            blocks = self.blocks(stack)
            stack_parameters = {
                "num_layers": len(blocks.layers) // blocks.layers_of_block,
                "layers": classes(*blocks.sublayers),
            }
            file.bind(f"{stack}/transformer.Stack", stack_parameters)
        file.bind("transformer.FeedForward", {"activation": function})
        file.bind(
            MIXTURE,
            {
                "num_experts": self.settings.count("num_experts"),
                "router": reference("@moe.Router"),
                "experts": reference("@moe.Experts"),
                "routes_padding": True,
                "loss_coef": self.settings.number("router_aux_loss_coef", 0.001),
            },
            comment="transformers drops tokens beyond expert_capacity",
        )
        router: dict[str, object] = {"gate": reference("@moe.Switch()")}
        noise = self.settings.number("router_jitter_noise", 0.01)
        if noise:
            router["input_noise"] = reference("@moe.Jitter()")
            file.bind("moe.Jitter", {"epsilon": noise})
        file.bind("moe.Router", router)
        file.bind("moe.Switch", {"z_loss": self.settings.number("router_z_loss_coef", 0.001)})
        file.bind(
            "moe.Experts",
            {
                "hidden_size": reference("%D_FF"),
                "activations": [function],
                "dropout_rate": reference("%DROPOUT_RATE"),
            },
        )

    def add_embeddings(self, table: TensorTable, words: VocabularyRows) -> None:
        if not self.has_two_embeddings:
            super().add_embeddings(table, words)
            return
        for name, path in zip(EMBEDDING_COPIES, ("inputs_embedding", "embedding"), strict=True):
            table.add(name, f"{path}/table", words)
        table.keep(re.escape("shared.weight"))

    def blocks(self, stack: str) -> Blocks:
        attentions = (GLOBAL,) if stack == "encoder" else (GLOBAL, CROSS)
        number = self.num_blocks(stack)
        # Without a step, the configuration computes it from the number of blocks with experts; see
        # transformers/models/switch_transformers/configuration_switch_transformers.py.
        num_sparse = self.settings.non_negative(f"num_sparse_{stack}_layers", 3)
        by_number = number // num_sparse if num_sparse else number
        step = self.settings.non_negative(f"{stack}_sparse_step", by_number)
        sparse = [step > 0 and (step == 1 or i % step == 1) for i in range(number)]
        layers = [(*attentions, MIXTURE if is_sparse else FEED_FORWARD) for is_sparse in sparse]
        return Blocks(layers, f"{stack}_stack")

    def add_feed_forward(self, table: TensorTable, theirs: str, ours: str) -> None:
        if "/moe_1d" not in ours:
            super().add_feed_forward(table, theirs, ours)
            return
        router = f"{theirs}.mlp.router.classifier.weight"
        table.add(router, f"{ours}/layer/router/kernel", Matrix())
        numbers = range(self.settings.count("num_experts"))
        for name, kernel in (("wi", "wi/factors/0"), ("wo", "wo")):
            names = [f"{theirs}.mlp.experts.expert_{i}.{name}.weight" for i in numbers]
            table.add(names, f"{ours}/layer/experts/{kernel}/kernel", Stacked(Matrix()))
