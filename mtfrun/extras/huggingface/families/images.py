"""Image classifiers, ResNet-18 to ResNet-152, ConvNeXt and ViT, and their image processors.

He et al. 2015, arXiv:1512.03385; Liu et al. 2022, arXiv:2201.03545; Dosovitskiy et al. 2020,
arXiv:2010.11929.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import (
    LAYERS,
    Blocks,
    Family,
    Processor,
    names_of_labels,
    write_sizes,
    write_training_images,
)
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
    feed_forward_rows,
    norm_rows,
)

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

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_image_processor(folder, settings.integer("num_channels", 3))]


def _write_image_data(settings: Settings, file: GinFile) -> None:
    """Adds the macro for images, and the classes and channels without images."""
    write_training_images(file)
    channels = settings.integer("num_channels", 3)
    file.bind("data.NoImages", {"labels": names_of_labels(settings), "channels": channels})


class _Stages(ImageFamily):
    """`default_depths` and `default_widths` are the configuration's defaults."""

    default_depths: ClassVar[Sequence[int]]
    default_widths: ClassVar[Sequence[int]]

    def depths(self, settings: Settings) -> list[int]:
        depths = settings.integers("depths", self.default_depths)
        if settings.tensors and sum(depths) > len(settings.tensors):
            raise settings.error("depths", f"are more than the {len(settings.tensors)} tensors")
        return depths

    def widths(self, settings: Settings) -> list[int]:
        widths = settings.integers("hidden_sizes", self.default_widths)
        if len(widths) != len(self.depths(settings)):
            raise settings.error("hidden_sizes", "must have as many numbers as depths")
        return widths


class ResNet(_Stages):
    default_depths = (3, 4, 6, 3)
    default_widths = (256, 512, 1024, 2048)

    def title(self, settings: Settings) -> str:
        layers = sum(self.depths(settings)) * (3 if _is_bottleneck(settings) else 2)
        return f"{self.name}-{layers + 2}"

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        settings.require("hidden_act", "relu")
        widths, block = self.widths(settings), "BasicBlock"
        if _is_bottleneck(settings):
            strides_first = settings.flag("downsample_in_bottleneck", default=False)
            block = "StridedFirstBottleneckBlock" if strides_first else "BottleneckBlock"
            if any(width % _EXPANSION for width in widths):
                problem = f"must be multiples of {_EXPANSION}, for bottlenecks"
                raise settings.error("hidden_sizes", problem)
            widths = [width // _EXPANSION for width in widths]
        file.include("models/resnet.gin")
        file.gap()
        file.macro("BLOCK", reference(f"@resnet.{block}"))
        file.macro("STEM", reference("@resnet.LargeImageStem"))
        file.macro("STAGE_SIZES", self.depths(settings))
        file.macro("WIDTHS", widths)
        file.gap()
        backbone = {"stem_width": settings.integer("embedding_size", 64)}
        if settings.flag("downsample_in_first_stage", default=False):
            backbone["first_stride"] = 2
        file.bind("resnet.Backbone", backbone)
        file.bind("layers.BatchNorm", _NORM, comment="as in torch")
        _write_image_data(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        rows = list(_convolution_and_norm("resnet.embedder.embedder", "stem/convolution"))
        channels = settings.integer("embedding_size", 64)
        stride = 2 if settings.flag("downsample_in_first_stage", default=False) else 1
        convolutions = 3 if _is_bottleneck(settings) else 2
        stages = zip(self.depths(settings), self.widths(settings), strict=True)
        for stage, (depth, width) in enumerate(stages):
            for block in range(depth):
                theirs = f"resnet.encoder.stages.{stage}.layers.{block}"
                ours = f"stages/{stage}/{block}"
                if block == 0 and (channels != width or stride != 1):
                    rows += _convolution_and_norm(f"{theirs}.shortcut", f"{ours}/shortcut")
                for i in range(convolutions):
                    rows += _convolution_and_norm(f"{theirs}.layer.{i}", f"{ours}/convolutions/{i}")
            channels, stride = width, 2
        rows += dense_rows("classifier.1", "softmax")
        return TensorTable(rows, [_COUNTERS])


def _is_bottleneck(settings: Settings) -> bool:
    settings.require("layer_type", "basic", "bottleneck")
    return settings.text("layer_type", "bottleneck") == "bottleneck"


def _convolution_and_norm(theirs: str, ours: str) -> Iterator[Row]:
    yield Row(f"{theirs}.convolution.weight", f"{ours}/convolution/kernel", _FILTER)
    norm, path = f"{theirs}.normalization", f"{ours}/norm"
    yield from norm_rows(norm, path)
    yield Row(f"{norm}.running_mean", f"{path}/moving_mean", Same())
    yield Row(f"{norm}.running_var", f"{path}/moving_variance", Same())


class ConvNext(_Stages):
    default_depths = (3, 3, 9, 3)
    default_widths = (96, 192, 384, 768)

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        file.include("extras/vision/models/convnext.gin")
        file.gap()
        file.macro("STAGE_SIZES", self.depths(settings))
        file.macro("WIDTHS", self.widths(settings))
        file.macro("PATCH_SIZE", settings.integer("patch_size", 4))
        file.macro("DROP_RATE", settings.number("drop_path_rate", 0.0))
        file.macro("LAYER_SCALE", _layer_scale(settings))
        file.macro("FINAL_NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        function = settings.activation("hidden_act", "gelu")
        file.bind("vision.ConvNextBlock", {"activation": function})
        file.gap()
        _write_image_data(settings, file)

    def depths(self, settings: Settings) -> list[int]:
        depths = super().depths(settings)
        if settings.integer("num_stages", len(depths)) != len(depths):
            raise settings.error("num_stages", f"must be {len(depths)}, the number of depths")
        return depths

    def table(self, settings: Settings) -> TensorTable:
        patches = "convnext.embeddings.patch_embeddings"
        rows = [*_convolution(patches, "patches")]
        rows += norm_rows("convnext.embeddings.layernorm", "patch_norm")
        for stage, depth in enumerate(self.depths(settings)):
            theirs = f"convnext.encoder.stages.{stage}"
            if stage:
                ours = f"downsampling/{stage - 1}"
                rows += norm_rows(f"{theirs}.downsampling_layer.0", f"{ours}/norm")
                rows += _convolution(f"{theirs}.downsampling_layer.1", f"{ours}/convolution")
            for block in range(depth):
                rows += _block(settings, f"{theirs}.layers.{block}", f"stages/{stage}/{block}")
        rows += norm_rows("convnext.layernorm", "final_norm")
        rows += dense_rows("classifier", "softmax")
        return TensorTable(rows)


class _DepthwiseFilter(Permuted):
    """[channels, 1, rows, columns] in the folder, {rows, columns, channels} of ours."""

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return super().theirs(value[:, :, np.newaxis])


def _convolution(theirs: str, ours: str, form: Permuted = _FILTER) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/kernel", form)
    yield Row(f"{theirs}.bias", f"{ours}/bias", Same())


def _block(settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
    yield from _convolution(f"{theirs}.dwconv", f"{ours}/depthwise", _DepthwiseFilter(_FILTER.axes))
    yield from norm_rows(f"{theirs}.layernorm", f"{ours}/norm")
    yield from dense_rows(f"{theirs}.pwconv1", f"{ours}/expand")
    yield from dense_rows(f"{theirs}.pwconv2", f"{ours}/project")
    if _layer_scale(settings) is not None:
        yield Row(f"{theirs}.layer_scale_parameter", f"{ours}/layer_scale", Same())


def _layer_scale(settings: Settings) -> float | None:
    initial = settings.number("layer_scale_init_value", 1e-6)
    return initial if initial > 0 else None


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
        width, d_ff = (
            settings.integer("hidden_size", 768),
            settings.integer("intermediate_size", 3072),
        )
        size, patch_size = settings.integer("image_size", 224), settings.integer("patch_size", 16)
        if size % patch_size:
            raise settings.error("patch_size", f"must divide {size}, the size of images")
        file.include("extras/vision/models/vit.gin")
        file.gap()
        self.blocks(settings).write_gin(file, LAYERS)
        write_sizes(settings, file, width, d_ff, ("num_attention_heads", 12))
        file.macro("PATCH_SIZE", patch_size)
        file.macro("NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        file.macro("DROPOUT_RATE", settings.number("hidden_dropout_prob", 0.0))
        file.macro("ATTENTION_DROPOUT_RATE", settings.number("attention_probs_dropout_prob", 0.0))
        function = settings.activation("hidden_act", "gelu")
        file.bind("transformer.FeedForward", {"activation": function})
        if not settings.flag("qkv_bias", default=True):
            file.bind("transformer.AttentionHeads", {"use_bias": False})
        file.gap()
        _write_image_data(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        embeddings, blocks = "vit.embeddings", self.blocks(settings)
        projection = f"{embeddings}.patch_embeddings.projection"
        rows = [
            Row(f"{embeddings}.cls_token", "first", OneRow(Same())),
            Row(f"{embeddings}.position_embeddings", "position/table", OneRow(Same())),
            *_convolution(projection, "patches"),
        ]
        for layer in range(len(blocks.layers)):
            theirs, paths = f"vit.encoder.layer.{layer}", blocks.paths(layer)
            modules = [f"attention.attention.{name}" for name in ("query", "key", "value")]
            rows += attention_rows(
                [f"{theirs}.{name}" for name in (*modules, "attention.output.dense")],
                f"{paths[0]}/layer/attention",
                use_bias=settings.flag("qkv_bias", default=True),
            )
            maps = [f"{theirs}.{name}.dense" for name in ("intermediate", "output")]
            rows += feed_forward_rows(maps, f"{paths[1]}/layer")
            for name, path in zip(("before", "after"), paths, strict=True):
                rows += norm_rows(f"{theirs}.layernorm_{name}", f"{path}/norm")
        rows += norm_rows("vit.layernorm", "encoder_stack/final_norm")
        rows += dense_rows("classifier", "softmax")
        # Of other heads.
        return TensorTable(rows, [r"vit\.pooler\..*", r"vit\.embeddings\.mask_token"])

    def blocks(self, settings: Settings) -> Blocks:
        return Blocks([LAYERS] * settings.count("num_hidden_layers", 12), "encoder_stack")


@dataclasses.dataclass(frozen=True)
class ImageProcessor:
    """Scales the shorter side to `resize` and crops `size`; `mean` is for pixels up to 255."""

    size: int
    resize: int
    mean: Sequence[float] | float
    stddev: Sequence[float] | float
    notes: Sequence[str] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)

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
