"""Tensor2Tensor's mtf_resnet of 2018, which `parity.SeedResNet` is here."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from mtfrun.checkpoints.names import Source
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.family import write_training_images
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import SourceRun

# A variable of no other model.
FIRST_VARIABLE = "init_filters"
# The size of an image's block, with channels in the columns.
_ROWS, _COLS = 32, 96
_STAGES = 3
_PLACE = re.compile(r"blocks/(\d+)/(projection|first|second|third)(_norm)?/(\w+)")
_NORM = {"scale": "batch_norm_scale", "bias": "batch_norm_bias"}
_PARTS = ("projection", "first", "second", "third")
_KERNELS = ("kernel", "kernel1", "kernel2", "wide_kernel")


def source_name(path: str, layer_sizes: Sequence[int]) -> str:
    """Returns the name of a variable of `parity.SeedResNet`; `layer_sizes`: blocks of stages."""
    place = _PLACE.fullmatch(path)
    if place is None:
        layer, _, name = path.partition("/")
        scopes = {"first": FIRST_VARIABLE, "hidden": f"dense/{name}", "softmax": f"logits/{name}"}
        return scopes.get(layer) or f"batch_norm/{_NORM.get(name, name)}"
    number, part, norm, name = place.groups()
    blocks = [
        (stage, i) for stage, size in enumerate(layer_sizes[:_STAGES], 1) for i in range(size)
    ]
    repetition, position = divmod(int(number), len(blocks))
    stage, i = blocks[position]
    scope = f"block_layer_{repetition}/block_layer{stage}/" + f"bottleneck_{i}/" * bool(i)
    parts, kernels = (_PARTS[1:], _KERNELS[1:]) if i else (_PARTS, _KERNELS)
    place_in_block = parts.index(part)
    if norm is None:
        return scope + kernels[place_in_block]
    suffix = f"_{place_in_block}" if place_in_block else ""
    return f"{scope}batch_norm{suffix}/{_NORM.get(name, name)}"


def sources(hparams: Settings, path: str, _: Collection[str]) -> list[Source]:
    return [Source(re.escape(source_name(path, hparams.integers("layer_sizes"))))]


def notes(_: SourceRun) -> list[str]:
    return [
        "the problem of the original prepared its images: here pixels become (pixel - 127.5) / "
        "127.5, or as resnet.ImageInput says",
        "labels are 0 to 9",
    ]


def write_model(run: SourceRun, file: GinFile) -> None:
    hparams = run.hparams
    channels = hparams.integer("num_channels", 3)
    rows, cols = hparams.integer("rows_size", _ROWS), hparams.integer("cols_size", _ROWS)
    blocks = [hparams.integer(name, 1) for name in ("row_blocks", "col_blocks")]
    if [rows, cols * channels] != [blocks[0] * _ROWS, blocks[1] * _COLS]:
        raise hparams.error("rows_size", f"and the columns must make blocks of {_ROWS} x {_COLS}")
    file.include("defaults.gin", "extras/mesh_tensorflow/models/resnet_seed.gin")
    file.gap()
    file.macro("BATCH_SIZE", hparams.integer("batch_size"), "also in evaluation")
    file.macro("NUM_LAYERS", hparams.integer("num_layers"))
    file.macro("LAYER_SIZES", hparams.integers("layer_sizes")[:_STAGES])
    file.macro("FILTER_SIZES", hparams.integers("filter_sizes")[:_STAGES])
    file.macro("HIDDEN_SIZE", hparams.integer("hidden_size"))
    write_training_images(file)
    size = {"channels": channels, "rows": rows, "cols": cols}
    file.bind("data.NoImages", {"labels": [str(i) for i in range(10)], **size})
