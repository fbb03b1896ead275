"""ResNet-18 to ResNet-152, with basic blocks or bottlenecks. He et al. 2015, arXiv:1512.03385."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    Family,
    Processor,
    stage_depths,
    stage_widths,
    write_image_data,
)
from mtfrun.extras.huggingface.image_processor import read_image_processor
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import Matrix, Permuted, Row, Same, TensorTable

# The folder has filters [outputs, inputs, rows, columns].
_FILTER = Permuted((2, 3, 1, 0))
# Of the norms of torch, which no configuration sets: torch.nn.BatchNorm2d.
_NORM = {"epsilon": 1e-5, "unbiased": True}
# Batches that torch has counted: of use with other moving averages than its and ours.
_COUNTERS = r".*\.normalization\.num_batches_tracked"
# Output channels of a bottleneck by the channels of its 3x3 convolution.
_EXPANSION = 4


class ResNet(Family):
    model_types: ClassVar[Sequence[str]] = ("resnet",)
    architectures: ClassVar[Sequence[str]] = ("ResNetForImageClassification",)

    def title(self, settings: Settings) -> str:
        layers = sum(_depths(settings)) * (3 if _is_bottleneck(settings) else 2)
        return f"ResNet-{layers + 2}"

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_image_processor(folder, settings.integer("num_channels", 3))]

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("hidden_act", "relu")
        file.include("models/resnet.gin")
        file.gap()
        file.macro("BLOCK", reference(f"@resnet.{_block(settings)}"))
        file.macro("STEM", reference("@resnet.LargeImageStem"))
        file.macro("STAGE_SIZES", _depths(settings))
        file.macro("WIDTHS", _widths(settings))
        file.gap()
        backbone = {"stem_width": settings.integer("embedding_size", 64)}
        if settings.flag("downsample_in_first_stage", default=False):
            backbone["first_stride"] = 2
        file.bind("resnet.Backbone", backbone)
        file.bind("layers.BatchNorm", _NORM, comment="as in torch")
        write_image_data(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        rows = _convolution("resnet.embedder.embedder", "stem/convolution")
        channels = settings.integer("embedding_size", 64)
        stride = 2 if settings.flag("downsample_in_first_stage", default=False) else 1
        convolutions = 3 if _is_bottleneck(settings) else 2
        sizes = _hidden_sizes(settings)
        for stage, depth in enumerate(_depths(settings)):
            for block in range(depth):
                theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
                ours = f"stages/{stage}/{block}"
                if block == 0 and (channels != sizes[stage] or stride != 1):
                    rows += _convolution(f"{theirs}.shortcut", f"{ours}/shortcut")
                for i in range(convolutions):
                    rows += _convolution(f"{theirs}.layer.{i}", f"{ours}/convolutions/{i}")
            channels, stride = sizes[stage], 2
        rows.append(Row("classifier.1.weight", "softmax/kernel", Matrix()))
        rows.append(Row("classifier.1.bias", "softmax/bias", Same()))
        return TensorTable(rows, [_COUNTERS])


# The values of a configuration that leaves them out.
_DEPTHS = (3, 4, 6, 3)
_HIDDEN_SIZES = (256, 512, 1024, 2048)


def _convolution(theirs: str, ours: str) -> list[Row]:
    norm = {
        "weight": "scale",
        "bias": "bias",
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    }
    return [
        Row(f"{theirs}.convolution.weight", f"{ours}/convolution/kernel", _FILTER),
        *(
            Row(f"{theirs}.normalization.{name}", f"{ours}/norm/{path}", Same())
            for name, path in norm.items()
        ),
    ]


def _depths(settings: Settings) -> list[int]:
    return stage_depths(settings, _DEPTHS)


def _hidden_sizes(settings: Settings) -> list[int]:
    return stage_widths(settings, _HIDDEN_SIZES, len(_depths(settings)))


def _is_bottleneck(settings: Settings) -> bool:
    settings.require("layer_type", "basic", "bottleneck")
    return settings.text("layer_type", "bottleneck") == "bottleneck"


def _block(settings: Settings) -> str:
    if not _is_bottleneck(settings):
        return "BasicBlock"
    if settings.flag("downsample_in_bottleneck", default=False):
        return "StridedFirstBottleneckBlock"
    return "BottleneckBlock"


def _widths(settings: Settings) -> list[int]:
    sizes = _hidden_sizes(settings)
    if not _is_bottleneck(settings):
        return sizes
    if any(size % _EXPANSION for size in sizes):
        raise settings.error("hidden_sizes", f"must be multiples of {_EXPANSION}, for bottlenecks")
    return [size // _EXPANSION for size in sizes]
