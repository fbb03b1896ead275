"""A program, not a test: residual networks of transformers, and their logits.

    python transformers_images.py make FOLDER       writes a folder for every entry of `MODELS`
    python transformers_images.py logits FOLDER...  writes logits.npy beside the weights

Tests run it in a process of its own, for torch and TensorFlow do not share one well.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import numpy as np
import torch
import transformers

SIZES: dict[str, Any] = {
    "embedding_size": 12,
    "hidden_sizes": [16, 24],
    "depths": [2, 1],
    "num_labels": 5,
    "out_features": None,
}
# By the name of a folder: changes of the sizes, and the type of the weights.
MODELS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "bottlenecks": ({}, torch.float32),
    "stride in the first convolution": ({"downsample_in_bottleneck": True}, torch.float32),
    "stride in the first stage": (
        {"downsample_in_first_stage": True, "layer_type": "basic"},
        torch.float32,
    ),
    "no shortcut in the first stage": (
        {"layer_type": "basic", "embedding_size": 16, "num_channels": 1, "num_labels": 2},
        torch.float32,
    ),
    "bfloat16": ({"hidden_sizes": [32, 64, 96], "depths": [1, 1, 2]}, torch.bfloat16),
}


def pixel_values(channels: int) -> np.ndarray:
    """Returns normalised images [batch, channels, rows, cols] that are no squares."""
    shape = [2, channels, 48, 64]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def make(directory: pathlib.Path) -> None:
    """Writes models with random weights and statistics."""
    torch.manual_seed(0)
    for name, (changes, dtype) in MODELS.items():
        config = transformers.ResNetConfig(**{**SIZES, **changes})
        model = transformers.ResNetForImageClassification(config)
        with torch.no_grad():
            for images in torch.tensor(pixel_values(config.num_channels)).repeat(3, 1, 1, 1, 1):
                model(images)  # in training: the statistics move
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.to(dtype).save_pretrained(directory / name)


def write_logits(folder: pathlib.Path) -> None:
    """Writes what the model of a folder computes of `pixel_values`, in float32."""
    model = transformers.AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor(pixel_values(model.config.num_channels))).logits
    np.save(folder / "logits.npy", logits.numpy())


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(pathlib.Path(sys.argv[2]))
    else:
        for folder in sys.argv[2:]:
            write_logits(pathlib.Path(folder))
