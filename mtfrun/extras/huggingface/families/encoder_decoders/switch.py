"""Switch Transformers: T5 with experts in some blocks. Fedus et al. 2021, arXiv:2101.03961."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from mtfrun.configuration.gin_values import Reference, reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import (
    EMBEDDING_COPIES,
    SOFTMAX,
    T5,
    UNTIED_BUT_SCALED,
    kernel_rows,
    num_blocks,
    write_encoder_decoder,
)
from mtfrun.extras.huggingface.family import Processor
from mtfrun.extras.huggingface.generation import Generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Row, Stacked, TensorTable

_SUBLAYERS = {
    "encoder": ("SelfAttention",),
    "decoder": ("SelfAttention", "EncoderDecoderAttention"),
}


class SwitchTransformers(T5):
    """Encoder-decoders of T5 1.0 whose blocks have a mixture of experts at equal distances."""

    unused = ()

    def title(self, settings: Settings) -> str:
        return self.name

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        *others, generation = super().processors(folder, settings)
        assert isinstance(generation, Generation)
        note = (
            f"expert_capacity={settings.integer('expert_capacity', 64)}: transformers drops the "
            "further tokens of a row that choose an expert, here none is dropped"
        )
        return [*others, dataclasses.replace(generation, notes=[*generation.notes, note])]

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("router_bias", *(False,))
        settings.require("router_dtype", "float32")
        is_tied = SOFTMAX not in settings.tensors
        softmax = {"tied_softmax": is_tied}
        if is_tied:
            softmax["scaled_softmax"] = settings.flag("tie_word_embeddings", default=True)
        elif settings.flag("tie_word_embeddings", default=True):
            raise settings.error("tie_word_embeddings", UNTIED_BUT_SCALED)
        write_encoder_decoder(settings, file, "models/t5.1.0.gin", softmax)
        if _has_two_embeddings(settings):
            size = {"inputs_vocabulary_size": settings.integer("vocab_size")}
            file.bind("transformer.EncoderDecoder", size)
        function = settings.activation("dense_act_fn", settings.text("dense_act_fn", "relu"))
        for stack, blocks in zip(_SUBLAYERS, num_blocks(settings), strict=True):
            periods = _Periods.of(settings, stack)
            file.bind(
                f"{stack}/transformer.Stack",
                {"num_layers": blocks // periods.length, "layers": periods.layers()},
            )
        file.bind("transformer.FeedForward", {"activation": function})
        file.bind(
            "moe.DroplessMoE",
            {
                "num_experts": settings.count("num_experts"),
                "router": reference("@moe.Router"),
                "experts": reference("@moe.Experts"),
                "routes_padding": True,
                "loss_coef": settings.number("router_aux_loss_coef", 0.001),
            },
            comment="transformers drops tokens beyond expert_capacity, here none is dropped",
        )
        router: dict[str, object] = {"gate": reference("@moe.Switch()")}
        noise = settings.number("router_jitter_noise", 0.01)
        if noise:
            router["input_noise"] = reference("@moe.Jitter()")
            file.bind("moe.Jitter", {"epsilon": noise})
        file.bind("moe.Router", router)
        file.bind("moe.Switch", {"z_loss": settings.number("router_z_loss_coef", 0.001)})
        file.bind(
            "moe.Experts",
            {
                "hidden_size": reference("%D_FF"),
                "activations": [function],
                "dropout_rate": reference("%DROPOUT_RATE"),
            },
        )

    def table(self, settings: Settings) -> TensorTable:
        table = super().table(settings)
        if not _has_two_embeddings(settings):
            return table
        shared, *others = table.rows
        paths = zip(EMBEDDING_COPIES, ("inputs_embedding/table", "embedding/table"), strict=True)
        rows = [Row(name, path, shared.transform) for name, path in paths]
        return TensorTable([*rows, *others], list(map(re.escape, shared.names)))

    def sublayer_path(self, settings: Settings, stack: str, block: int, sublayer: str) -> str:
        return _Periods.of(settings, stack).path(stack, block, sublayer)

    def feed_forward(
        self, settings: Settings, stack: str, block: int, theirs: str
    ) -> tuple[str, Iterator[Row]]:
        if _Periods.of(settings, stack).is_sparse(block):
            ours = self.sublayer_path(settings, stack, block, "moe_1d")
            number = settings.count("num_experts")
            return ours, _mixture(f"{theirs}.mlp", f"{ours}/layer", number)
        ours = self.sublayer_path(settings, stack, block, "feed_forward")
        return ours, kernel_rows(f"{theirs}.mlp", f"{ours}/layer", ["wi", "wo"])


def _has_two_embeddings(settings: Settings) -> bool:
    """Models of version 5 without ties have two, beside a shared one that nothing uses."""
    return all(name in settings.tensors for name in EMBEDDING_COPIES)


def _mixture(theirs: str, ours: str, num_experts: int) -> Iterator[Row]:
    yield Row(f"{theirs}.router.classifier.weight", f"{ours}/router/kernel", Matrix())
    for name, kernel in (("wi", "wi/factors/0"), ("wo", "wo")):
        names = [f"{theirs}.experts.expert_{i}.{name}.weight" for i in range(num_experts)]
        yield Row(names, f"{ours}/experts/{kernel}/kernel", Stacked(Matrix()))


@dataclasses.dataclass(frozen=True)
class _Periods:
    """Blocks of ours, each for `length` blocks of transformers, of which some are `sparse`."""

    length: int
    sparse: tuple[bool, ...]
    sublayers: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings, stack: str) -> _Periods:
        blocks = num_blocks(settings)[list(_SUBLAYERS).index(stack)]
        # Without a step, the configuration computes it from the number of blocks with experts; see
        # transformers/models/switch_transformers/configuration_switch_transformers.py.
        number = settings.non_negative(f"num_sparse_{stack}_layers", 3)
        by_number = blocks // number if number else blocks
        step = settings.non_negative(f"{stack}_sparse_step", by_number)
        sparse = tuple(step > 0 and (step == 1 or i % step == 1) for i in range(blocks))
        length = step if step > 0 and blocks % step == 0 else blocks
        return cls(length, sparse[:length], _SUBLAYERS[stack])

    def is_sparse(self, block: int) -> bool:
        return self.sparse[block % self.length]

    def layers(self) -> list[Reference]:
        layers = []
        for is_sparse in self.sparse:
            layers += [reference(f"@transformer.{name}") for name in self.sublayers]
            layers.append(
                reference("@moe.DroplessMoE" if is_sparse else "@transformer.FeedForward")
            )
        return layers

    def path(self, stack: str, block: int, sublayer: str) -> str:
        """Returns the path of a sublayer; sublayers that a block of ours has twice are numbered."""
        ours, position = divmod(block, self.length)
        kinds = {"moe_1d": [i for i, sparse in enumerate(self.sparse) if sparse]}
        kinds["feed_forward"] = [i for i, sparse in enumerate(self.sparse) if not sparse]
        places = kinds.get(sublayer, list(range(self.length)))
        number = f"_{places.index(position)}" if len(places) > 1 else ""
        return f"{stack}_stack/blocks/{ours}/{sublayer}{number}"
