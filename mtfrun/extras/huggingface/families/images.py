"""Image classifiers, ResNet-18 to ResNet-152, ConvNeXt and ViT, and their image processors.

He et al. 2015, arXiv:1512.03385; Liu et al. 2022, arXiv:2201.03545; Dosovitskiy et al. 2020,
arXiv:2010.11929.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    LAYERS,
    Blocks,
    Family,
    Processor,
    names_of_labels,
    write_training_images,
)
from mtfrun.extras.huggingface.tables.folder import PREPROCESSOR_CONFIG, Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import SAME, OneRow, Permuted, TensorTable

# Pixels from 0 to 255 become numbers from -1 to 1, as in transformers' default for ViT.
_MIDDLE = 127.5
# The folder has filters [outputs, inputs, rows, columns].
_FILTER = Permuted((2, 3, 1, 0))
# Defaults of torch.nn.BatchNorm2d, which configurations do not set.
_NORM = {"epsilon": 1e-5, "unbiased": True}
# torch's batch counters, unused with exponential moving averages.
_COUNTERS = r".*\.normalization\.num_batches_tracked"
# Output channels of a bottleneck per channel of its 3x3 convolution.
_EXPANSION = 4
# Defaults without a file: the usual size, and ImageNet's mean and standard deviation, as in
# transformers/image_utils.py.
_SIZE = 224
_MEAN, _STDDEV = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Classes with "crop_pct" do not crop larger images.
_LARGEST_CROPPED = 384


class ImageFamily(Family):
    """Classifiers of images."""

    def processors(self, folder: Folder) -> Sequence[Processor]:
        return [read_image_processor(folder, self.settings.integer("num_channels", 3))]

    def write_data(self, file: GinFile) -> None:
        """Adds the macro for images, and the classes and channels without images."""
        write_training_images(file)
        channels = self.settings.integer("num_channels", 3)
        labels = names_of_labels(self.settings)
        file.bind("data.NoImages", {"labels": labels, "channels": channels})


class _Stages(ImageFamily):
    """`default_depths` and `default_widths` are the configuration's defaults."""

    default_depths: Sequence[int]
    default_widths: Sequence[int]

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        self.depths = settings.integers("depths", self.default_depths)
        self.widths = settings.integers("hidden_sizes", self.default_widths)
        if settings.tensors and sum(self.depths) > len(settings.tensors):
            raise settings.error("depths", f"are more than the {len(settings.tensors)} tensors")
        if len(self.widths) != len(self.depths):
            raise settings.error("hidden_sizes", "must have as many numbers as depths")


class ResNet(_Stages):
    default_depths = (3, 4, 6, 3)
    default_widths = (256, 512, 1024, 2048)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        settings.require("layer_type", "basic", "bottleneck")
        self.is_bottleneck = settings.text("layer_type", "bottleneck") == "bottleneck"
        strides = settings.flag("downsample_in_first_stage", default=False)
        self.first_stride = 2 if strides else 1
        self.stem_width = settings.integer("embedding_size", 64)
        self.name += f"-{sum(self.depths) * (3 if self.is_bottleneck else 2) + 2}"

    def write_gin(self, file: GinFile) -> None:
        self.settings.require("hidden_act", "relu")
        widths, block = self.widths, "BasicBlock"
        if self.is_bottleneck:
            strides_first = self.settings.flag("downsample_in_bottleneck", default=False)
            block = "StridedFirstBottleneckBlock" if strides_first else "BottleneckBlock"
            if any(width % _EXPANSION for width in widths):
                problem = f"must be multiples of {_EXPANSION}, for bottlenecks"
                raise self.settings.error("hidden_sizes", problem)
            widths = [width // _EXPANSION for width in widths]
        file.include("models/resnet.gin")
        file.gap()
        file.macro("BLOCK", reference(f"@resnet.{block}"))
        file.macro("STEM", reference("@resnet.LargeImageStem"))
        file.macro("STAGE_SIZES", self.depths)
        file.macro("WIDTHS", widths)
        file.gap()
        file.bind("resnet.Backbone", {"stem_width": self.stem_width})
        if self.first_stride != 1:
            file.bind("resnet.Backbone", {"first_stride": self.first_stride})
        file.bind("layers.BatchNorm", _NORM, comment="as in torch")
        self.write_data(file)

    def table(self) -> TensorTable:
        table = TensorTable()
        table.keep(_COUNTERS)
        _add_convolution_and_norm(table, "resnet.embedder.embedder", "stem/convolution")
        channels, stride = self.stem_width, self.first_stride
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
            for block in range(depth):
                theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
                ours = f"stages/{stage}/{block}"
                if block == 0 and (channels != width or stride != 1):
                    _add_convolution_and_norm(table, f"{theirs}.shortcut", f"{ours}/shortcut")
                for i in range(3 if self.is_bottleneck else 2):
                    name, path = f"{theirs}.layer.{i}", f"{ours}/convolutions/{i}"
                    _add_convolution_and_norm(table, name, path)
            channels, stride = width, 2
        table.dense("classifier.1", "softmax")
        return table


def _add_convolution_and_norm(table: TensorTable, theirs: str, ours: str) -> None:
    table.add(f"{theirs}.convolution.weight", f"{ours}/convolution/kernel", _FILTER)
    norm, path = f"{theirs}.normalization", f"{ours}/norm"
    table.norm(norm, path)
    table.add(f"{norm}.running_mean", f"{path}/moving_mean")
    table.add(f"{norm}.running_var", f"{path}/moving_variance")


class ConvNext(_Stages):
    default_depths = (3, 3, 9, 3)
    default_widths = (96, 192, 384, 768)

    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        number = len(self.depths)
        if settings.integer("num_stages", number) != number:
            raise settings.error("num_stages", f"must be {number}, the number of depths")
        initial = settings.number("layer_scale_init_value", 1e-6)
        self.layer_scale = initial if initial > 0 else None

    def write_gin(self, file: GinFile) -> None:
        settings = self.settings
        file.include("extras/vision/models/convnext.gin")
        file.gap()
        file.macro("STAGE_SIZES", self.depths)
        file.macro("WIDTHS", self.widths)
        file.macro("PATCH_SIZE", settings.integer("patch_size", 4))
        file.macro("DROP_RATE", settings.number("drop_path_rate", 0.0))
        file.macro("LAYER_SCALE", self.layer_scale)
        file.macro("FINAL_NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        function = settings.activation("hidden_act", "gelu")
        file.bind("vision.ConvNextBlock", {"activation": function})
        file.gap()
        self.write_data(file)

    def table(self) -> TensorTable:
        table = TensorTable()
        _add_convolution(table, "convnext.embeddings.patch_embeddings", "patches")
        table.norm("convnext.embeddings.layernorm", "patch_norm")
        for stage, depth in enumerate(self.depths):
            theirs = f"convnext.encoder.stages.{stage}"
            if stage:
                ours = f"downsampling/{stage - 1}"
                table.norm(f"{theirs}.downsampling_layer.0", f"{ours}/norm")
                _add_convolution(table, f"{theirs}.downsampling_layer.1", f"{ours}/convolution")
            for block in range(depth):
                self.add_block(table, f"{theirs}.layers.{block}", f"stages/{stage}/{block}")
        table.norm("convnext.layernorm", "final_norm")
        table.dense("classifier", "softmax")
        return table

    def add_block(self, table: TensorTable, theirs: str, ours: str) -> None:
        filters = _DepthwiseFilter(_FILTER.axes)
        _add_convolution(table, f"{theirs}.dwconv", f"{ours}/depthwise", filters)
        table.norm(f"{theirs}.layernorm", f"{ours}/norm")
        table.dense(f"{theirs}.pwconv1", f"{ours}/expand")
        table.dense(f"{theirs}.pwconv2", f"{ours}/project")
        if self.layer_scale is not None:
            table.add(f"{theirs}.layer_scale_parameter", f"{ours}/layer_scale")


class _DepthwiseFilter(Permuted):
    """[channels, 1, rows, columns] in the folder, {rows, columns, channels} of ours."""

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return super().theirs(value[:, :, np.newaxis])


def _add_convolution(table: TensorTable, theirs: str, ours: str, form: Permuted = _FILTER) -> None:
    table.add(f"{theirs}.weight", f"{ours}/kernel", form)
    table.add(f"{theirs}.bias", f"{ours}/bias")


class ViT(ImageFamily):
    def __init__(self, settings: Settings, name: str) -> None:
        super().__init__(settings, name)
        number = settings.count("num_hidden_layers", 12)
        self.blocks = Blocks([LAYERS] * number, "encoder_stack")
        self.has_bias = settings.flag("qkv_bias", default=True)

    def processors(self, folder: Folder) -> Sequence[Processor]:
        size = self.settings.integer("image_size", 224)
        processor = read_image_processor(folder, self.settings.integer("num_channels", 3))
        if not folder.has(PREPROCESSOR_CONFIG):
            processor = dataclasses.replace(
                processor, size=size, resize=size, mean=_MIDDLE, stddev=_MIDDLE
            )
        if processor.size != size:
            problem = f"is another size than the {processor.size} of {PREPROCESSOR_CONFIG}"
            raise self.settings.error("image_size", problem)
        return [processor]

    def write_gin(self, file: GinFile) -> None:
        settings = self.settings
        size, patch_size = settings.integer("image_size", 224), settings.integer("patch_size", 16)
        if size % patch_size:
            raise settings.error("patch_size", f"must divide {size}, the size of images")
        file.include("extras/vision/models/vit.gin")
        file.gap()
        self.blocks.write_gin(file, LAYERS)
        width, d_ff = ("hidden_size", 768), ("intermediate_size", 3072)
        self.write_sizes(file, width, d_ff, ("num_attention_heads", 12))
        file.macro("PATCH_SIZE", patch_size)
        file.macro("NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        file.macro("DROPOUT_RATE", settings.number("hidden_dropout_prob", 0.0))
        file.macro("ATTENTION_DROPOUT_RATE", settings.number("attention_probs_dropout_prob", 0.0))
        function = settings.activation("hidden_act", "gelu")
        file.bind("transformer.FeedForward", {"activation": function})
        if not self.has_bias:
            file.bind("transformer.AttentionHeads", {"use_bias": False})
        file.gap()
        self.write_data(file)

    def table(self) -> TensorTable:
        table = TensorTable()
        table.keep(r"vit\.pooler\..*", r"vit\.embeddings\.mask_token")  # of other heads
        table.add("vit.embeddings.cls_token", "first", OneRow(SAME))
        table.add("vit.embeddings.position_embeddings", "position/table", OneRow(SAME))
        _add_convolution(table, "vit.embeddings.patch_embeddings.projection", "patches")
        for layer in range(len(self.blocks.layers)):
            theirs, paths = f"vit.encoder.layer.{layer}", self.blocks.paths(layer)
            modules = [f"{theirs}.attention.attention.{x}" for x in ("query", "key", "value")]
            modules.append(f"{theirs}.attention.output.dense")
            table.attention(modules, f"{paths[0]}/layer/attention", biases=(self.has_bias, True))
            maps = [f"{theirs}.{name}.dense" for name in ("intermediate", "output")]
            table.feed_forward(maps, f"{paths[1]}/layer")
            for name, path in zip(("before", "after"), paths, strict=True):
                table.norm(f"{theirs}.layernorm_{name}", f"{path}/norm")
        table.norm("vit.layernorm", "encoder_stack/final_norm")
        table.dense("classifier", "softmax")
        return table


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Scales the shorter side to `resize` and crops `size`; `mean` is for pixels up to 255."""

    size: int
    resize: int
    mean: Sequence[float] | float
    stddev: Sequence[float] | float
    notes: Sequence[str] = ()

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        file.macro("IMAGE_SIZE", self.size)
        file.bind("data.ImageData", {"image_size": reference("%IMAGE_SIZE"), "resize": self.resize})
        # Data files set the macros of models/resnet.gin.
        file.bind(
            "resnet.ImageInput",
            {"mean": self.mean, "stddev": self.stddev},
            comment="of the pixels that the model was trained on",
        )


def read_image_processor(folder: Folder, channels: int) -> ImageProcessor:
    if not folder.has(PREPROCESSOR_CONFIG):
        is_colour = channels == len(_MEAN)
        return ImageProcessor(
            _SIZE,
            round(_SIZE * 256 / 224),
            _divide(_MEAN, 1 / 255) if is_colour else 127.5,
            _divide(_STDDEV, 1 / 255) if is_colour else 127.5,
            [f"there is no {PREPROCESSOR_CONFIG}: see resnet.ImageInput in config.gin"],
        )
    where = str(folder.path / PREPROCESSOR_CONFIG)
    settings = Settings(folder.json_of(PREPROCESSOR_CONFIG), where)
    size, resize, notes = _sizes(settings)
    scale = settings.number("rescale_factor", 1 / 255)
    if not settings.flag("do_rescale", default=True):
        scale = 1.0
    mean: Sequence[float] = [0.0]
    stddev: Sequence[float] = [1.0]
    if settings.flag("do_normalize", default=True):
        mean = _per_channel(settings, "image_mean", channels, 0.5)
        stddev = _per_channel(settings, "image_std", channels, 0.5)
    if scale <= 0 or min(stddev) <= 0:
        raise settings.error("image_std", "and rescale_factor must be above 0")
    # (scale * pixel - mean) / stddev, for pixels from 0 to 255.
    return ImageProcessor(size, resize, _divide(mean, scale), _divide(stddev, scale), notes)


def _sizes(settings: Settings) -> tuple[int, int, list[str]]:
    size = _side(settings, "size", _SIZE)
    if settings.flag("do_center_crop", default=False):
        crop = _side(settings, "crop_size", size)
        return crop, max(size, crop), []
    if "crop_pct" in settings.values and size < _LARGEST_CROPPED:
        fraction = settings.number("crop_pct", 224 / 256)
        if not 0 < fraction <= 1:
            raise settings.error("crop_pct", "must be above 0, and at most 1")
        return size, int(size / fraction), []
    note = f"{settings.where} squeezes images into squares: here they are scaled and cropped"
    return size, size, [note]


def _side(settings: Settings, name: str, default: int) -> int:
    value = settings.values.get(name)
    sides: dict[str, Any] = value if type(value) is dict else {name: value}
    lengths = [length for length in sides.values() if length is not None] or [default]
    if any(type(length) is not int or length < 1 for length in lengths):
        raise settings.error(name, "must be a number of pixels")
    if len(set(lengths)) > 1:
        raise settings.error(name, "is not supported: images must be square")
    return int(lengths[0])


def _per_channel(settings: Settings, name: str, channels: int, default: float) -> list[float]:
    values = settings.values.get(name)
    values = default if values is None else values
    numbers = list(values) if type(values) is list else [values]
    if not all(type(x) in (int, float) and math.isfinite(x) for x in numbers):
        raise settings.error(name, "must be a list of numbers")
    if len(numbers) not in (1, channels):
        raise settings.error(name, f"must have {channels} numbers, one for each channel")
    return [float(x) for x in numbers]


def _divide(numbers: Sequence[float], scale: float) -> list[float] | float:
    """Returns numbers / scale, rounded to ten digits."""
    quotients = [float(f"{number / scale:.10g}") for number in numbers]
    return quotients if len(quotients) > 1 else quotients[0]
