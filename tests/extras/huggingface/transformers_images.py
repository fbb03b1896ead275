"""A program, not a test: classifiers of images of transformers, and their logits.

    python transformers_images.py make FOLDER       writes a folder for every entry of `MODELS`
    python transformers_images.py store FOLDER...   writes a model of the folder's config.json, as
                                                    in tests/oracle/hf, and its case.npz
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

RESNET: dict[str, Any] = {
    **{"embedding_size": 12, "hidden_sizes": [16, 24], "depths": [2, 1], "num_labels": 5},
    "out_features": None,
}
VIT: dict[str, Any] = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"intermediate_size": 24, "image_size": 16, "patch_size": 4, "num_labels": 5},
}
CONVNEXT: dict[str, Any] = {
    **{"hidden_sizes": [8, 12], "depths": [1, 2], "num_stages": 2, "patch_size": 2},
    **{"image_size": 16, "layer_scale_init_value": 0.5, "num_labels": 5},
}
# By the name of a folder, which may be that of its type: the class without "Config", and its
# configuration.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bottlenecks": ("ResNet", RESNET),
    "stride in the first convolution": ("ResNet", {**RESNET, "downsample_in_bottleneck": True}),
    "stride in the first stage": (
        "ResNet",
        {**RESNET, "downsample_in_first_stage": True, "layer_type": "basic"},
    ),
    "no shortcut in the first stage": (
        "ResNet",
        {
            **{**RESNET, "layer_type": "basic", "embedding_size": 16},
            **{"num_channels": 1, "num_labels": 2},
        },
    ),
    "bfloat16": ("ResNet", {**RESNET, "hidden_sizes": [32, 64, 96], "depths": [1, 1, 2]}),
    "vit, other sizes, no biases of heads, relu": (
        "ViT",
        {
            **{**VIT, "qkv_bias": False, "hidden_act": "relu", "num_channels": 1, "num_labels": 2},
            **{"image_size": 24, "patch_size": 8, "layer_norm_eps": 1e-3},
        },
    ),
    "convnext, three stages, no factors, relu": (
        "ConvNext",
        {
            **CONVNEXT,
            **{"hidden_sizes": [4, 6, 8], "depths": [2, 1, 1], "num_stages": 3, "image_size": 32},
            **{"layer_scale_init_value": 0.0, "hidden_act": "relu", "num_channels": 1},
            **{"layer_norm_eps": 1e-3, "num_labels": 2},
        },
    ),
}


def _images(config: Any) -> np.ndarray:
    """Returns normalised images of the size of a model; those of a ResNet are no squares."""
    size = getattr(config, "image_size", None)
    shape = [2, config.num_channels, *((48, 64) if size is None else (size, size))]
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def make(directory: pathlib.Path) -> None:
    """Writes models with random weights and statistics."""
    torch.manual_seed(0)
    for name, (kind, values) in MODELS.items():
        dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
        config = getattr(transformers, f"{kind}Config")(**values)
        _model(config).to(dtype).save_pretrained(directory / name)


def store(folder: pathlib.Path) -> None:
    """Writes a model and what it computes."""
    torch.manual_seed(0)
    model = _model(transformers.AutoConfig.from_pretrained(folder)).eval()
    model.save_pretrained(folder)
    images = _images(model.config)
    with torch.no_grad():
        logits = model(torch.tensor(images)).logits.numpy()
    np.savez(folder / "case.npz", pixel_values=images, logits=logits)


def _model(config: Any) -> Any:
    model = transformers.AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for images in torch.tensor(_images(config)).repeat(3, 1, 1, 1, 1):
            model(images)  # in training: the statistics move
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def write_logits(folder: pathlib.Path) -> None:
    """Writes what the model of a folder computes of `_images`, in float32."""
    model = transformers.AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        logits = model(torch.tensor(_images(model.config))).logits
    np.save(folder / "logits.npy", logits.numpy())


if __name__ == "__main__":
    command, *names = sys.argv[1:]
    for folder in map(pathlib.Path, names):
        {"make": make, "store": store, "logits": write_logits}[command](folder)
