"""ConvNeXt: classifiers of images. Liu et al. 2022, arXiv:2201.03545."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

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
from mtfrun.extras.huggingface.tables.tensor_table import (
    Permuted,
    Row,
    Same,
    TensorTable,
    dense_rows,
    norm_rows,
)

# The folder has filters [outputs, inputs, rows, columns].
_FILTER = Permuted((2, 3, 1, 0))
# The values of a configuration that leaves them out.
_DEPTHS = (3, 3, 9, 3)
_HIDDEN_SIZES = (96, 192, 384, 768)


class _DepthwiseFilter(Permuted):
    """[channels, 1, rows, columns] in the folder, {rows, columns, channels} of ours."""

    def theirs(self, value: np.ndarray) -> np.ndarray:
        return super().theirs(value[:, :, np.newaxis])


class ConvNext(Family):
    model_types: ClassVar[Sequence[str]] = ("convnext",)
    architectures: ClassVar[Sequence[str]] = ("ConvNextForImageClassification",)
    name: ClassVar[str] = "ConvNeXt"

    def processors(self, folder: Folder, settings: Settings) -> Sequence[Processor]:
        return [read_image_processor(folder, settings.integer("num_channels", 3))]

    def write_gin(self, settings: Settings, file: GinFile) -> None:
        file.include("extras/vision/models/convnext.gin")
        file.gap()
        file.macro("STAGE_SIZES", _depths(settings))
        file.macro("WIDTHS", _widths(settings))
        file.macro("PATCH_SIZE", settings.integer("patch_size", 4))
        file.macro("DROP_RATE", settings.number("drop_path_rate", 0.0))
        file.macro("LAYER_SCALE", _layer_scale(settings))
        file.macro("FINAL_NORM_EPSILON", settings.number("layer_norm_eps", 1e-12))
        function = settings.activation("hidden_act", settings.text("hidden_act", "gelu"))
        file.bind("vision.ConvNextBlock", {"activation": function})
        file.gap()
        write_image_data(settings, file)

    def table(self, settings: Settings) -> TensorTable:
        patches = "convnext.embeddings.patch_embeddings"
        rows = [
            *_convolution(patches, "patches"),
            *norm_rows("convnext.embeddings.layernorm", "patch_norm"),
        ]
        for stage, depth in enumerate(_depths(settings)):
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


def _convolution(theirs: str, ours: str, form: Permuted = _FILTER) -> Iterator[Row]:
    yield Row(f"{theirs}.weight", f"{ours}/kernel", form)
    yield Row(f"{theirs}.bias", f"{ours}/bias", Same())


def _block(settings: Settings, theirs: str, ours: str) -> Iterator[Row]:
    form = _DepthwiseFilter(_FILTER.axes)
    yield from _convolution(f"{theirs}.dwconv", f"{ours}/depthwise", form)
    yield from norm_rows(f"{theirs}.layernorm", f"{ours}/norm")
    yield from dense_rows(f"{theirs}.pwconv1", f"{ours}/expand")
    yield from dense_rows(f"{theirs}.pwconv2", f"{ours}/project")
    if _layer_scale(settings) is not None:
        yield Row(f"{theirs}.layer_scale_parameter", f"{ours}/layer_scale", Same())


def _depths(settings: Settings) -> list[int]:
    depths = stage_depths(settings, _DEPTHS)
    if settings.integer("num_stages", len(depths)) != len(depths):
        raise settings.error("num_stages", f"must be {len(depths)}, the number of depths")
    return depths


def _widths(settings: Settings) -> list[int]:
    return stage_widths(settings, _HIDDEN_SIZES, len(_depths(settings)))


def _layer_scale(settings: Settings) -> float | None:
    initial = settings.number("layer_scale_init_value", 1e-6)
    return initial if initial > 0 else None
