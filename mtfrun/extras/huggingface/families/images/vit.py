"""ViT: classifiers of images. Dosovitskiy et al. 2020, arXiv:2010.11929."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    LAYERS,
    Blocks,
    ImageFamily,
    Processor,
    write_image_data,
)
from mtfrun.extras.huggingface.image_processor import read_image_processor
from mtfrun.extras.huggingface.tables.folder import PREPROCESSOR_CONFIG, Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import (
    OneRow,
    Permuted,
    Row,
    Same,
    TensorTable,
    attention_rows,
    dense_rows,
    norm_rows,
)

# Pixels from 0 to 255 become numbers from -1 to 1, as in transformers' default for these models.
_MIDDLE = 127.5


class ViT(ImageFamily):
    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        size = settings.integer("image_size", 224)
        processor = read_image_processor(folder, settings.integer("num_channels", 3))
        if not folder.has(PREPROCESSOR_CONFIG):
            processor = dataclasses.replace(
                processor, size=size, resize=size, mean=_MIDDLE, stddev=_MIDDLE
            )
        if processor.size != size:
            problem = f"is another size than the {processor.size} of {PREPROCESSOR_CONFIG}"
            raise settings.error("image_size", problem)
        return [processor]

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        width = settings.integer("hidden_size", 768)
        heads = settings.integer("num_attention_heads", 12)
        size, patch_size = settings.integer("image_size", 224), settings.integer("patch_size", 16)
        if width % heads:
            raise settings.error("num_attention_heads", f"must divide {width}, the size of all")
        if size % patch_size:
            raise settings.error("patch_size", f"must divide {size}, the size of images")
        file.include("extras/vision/models/vit.gin")
        file.gap()
        self.blocks(settings).write_gin(file, LAYERS)
        file.macro("D_MODEL", width)
        file.macro("D_FF", settings.integer("intermediate_size", 3072))
        file.macro("NUM_HEADS", heads)
        file.macro("D_KV", width // heads)
        file.macro("PATCH_SIZE", patch_size)
        file.macro("NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        file.macro("DROPOUT_RATE", settings.number("hidden_dropout_prob", 0.0))
        file.macro("ATTENTION_DROPOUT_RATE", settings.number("attention_probs_dropout_prob", 0.0))
        function = settings.activation("hidden_act", "gelu")
        file.bind("transformer.FeedForward", {"activation": function})
        if not settings.flag("qkv_bias", default=True):
            file.bind("transformer.AttentionHeads", {"use_bias": False})
        file.gap()
        write_image_data(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        embeddings, blocks = "vit.embeddings", self.blocks(settings)
        projection = f"{embeddings}.patch_embeddings.projection"
        rows = [
            Row(f"{embeddings}.cls_token", "first", OneRow(Same())),
            Row(f"{embeddings}.position_embeddings", "position/table", OneRow(Same())),
            Row(f"{projection}.weight", "patches/kernel", Permuted((2, 3, 1, 0))),
            Row(f"{projection}.bias", "patches/bias", Same()),
        ]
        for layer in range(len(blocks.layers)):
            rows += _layer(settings, f"vit.encoder.layer.{layer}", blocks.paths(layer))
        rows += norm_rows("vit.layernorm", "encoder_stack/final_norm")
        rows += dense_rows("classifier", "softmax")
        # Of other heads.
        return TensorTable(rows, [r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"])

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count("num_hidden_layers", 12), "encoder_stack")


def _layer(settings: Settings, theirs: str, paths: Sequence[str]) -> Iterator[Row]:
    attention, maps = (f"{path}/layer" for path in paths)
    modules = [f"{theirs}.attention.attention.{name}" for name in ("query", "key", "value")]
    yield from attention_rows(
        [*modules, f"{theirs}.attention.output.dense"],
        f"{attention}/attention",
        use_bias=settings.flag("qkv_bias", default=True),
    )
    yield from dense_rows(f"{theirs}.intermediate.dense", f"{maps}/wi")
    yield from dense_rows(f"{theirs}.output.dense", f"{maps}/wo")
    for name, path in zip(("before", "after"), paths, strict=True):
        yield from norm_rows(f"{theirs}.layernorm_{name}", f"{path}/norm")
