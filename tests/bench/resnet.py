"""`bin/bench resnet`: a residual network's training step against a hand-written one.

ResNet-20, batch 128, on images of 32 x 32, on one device. The reference is hand-written TensorFlow
with its fused batch norm, of the same type; where PyTorch can be imported, it is measured too.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.bench.alternate import Subject, add_rounds, compare

TYPES = ("float32", "bfloat16")
LEARNING_RATE = 0.001
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """ResNet-(6n + 2) for images of CIFAR's size; He et al. 2015, section 4.2.

    In every stage but the first, the first block has stride 2 and a 1x1 convolution as shortcut.
    """

    batch: int
    num_blocks: tuple[int, ...]
    widths: tuple[int, ...]
    size: int = 32

    def blocks(self) -> Iterator[tuple[str, int, int, int]]:
        """Yields the path of every block, its channels in and out, and its stride."""
        inputs = self.widths[0]
        for stage, (count, width) in enumerate(zip(self.num_blocks, self.widths, strict=True)):
            for i in range(count):
                yield f"stages/{stage}/{i}", inputs, width, 2 if stage and i == 0 else 1
                inputs = width


CONFIGS = {
    "tiny": ResNetConfig(4, (1, 1), (4, 8), size=8),
    "resnet20": ResNetConfig(128, (3, 3, 3), (16, 32, 64)),
}


def parameters(config: ResNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the trainable weights by path; kernels are [height, width, in, out]."""
    rng = np.random.default_rng(seed)
    weights: dict[str, np.ndarray] = {}

    def add_kernel(path: str, *shape: int) -> None:
        stddev = np.prod(shape[:-1]) ** -0.5
        weights[f"{path}/kernel"] = (rng.standard_normal(shape) * stddev).astype(np.float32)

    def add_convolution(path: str, size: int, inputs: int, outputs: int) -> None:
        add_kernel(f"{path}/convolution", size, size, inputs, outputs)
        weights[f"{path}/norm/scale"] = np.ones([outputs], np.float32)
        weights[f"{path}/norm/bias"] = np.zeros([outputs], np.float32)

    add_convolution("stem/convolution", 3, 3, config.widths[0])
    for path, inputs, width, stride in config.blocks():
        add_convolution(f"{path}/convolutions/0", 3, inputs, width)
        add_convolution(f"{path}/convolutions/1", 3, width, width)
        if stride != 1:
            add_convolution(f"{path}/shortcut", 1, inputs, width)
    add_kernel("softmax", config.widths[-1], CLASSES)
    weights["softmax/bias"] = np.zeros([CLASSES], np.float32)
    return weights


def batch(config: ResNetConfig, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised images [batch, rows, cols, 3] and int32 labels [batch]."""
    rng = np.random.default_rng(seed)
    shape = (config.batch, config.size, config.size, 3)
    images = rng.standard_normal(shape, np.float32)
    return images, rng.integers(0, CLASSES, [config.batch]).astype(np.int32)


def logits(
    x: Any,
    config: ResNetConfig,
    convolution: Callable[[Any, str, int], Any],
    relu: Callable[[Any], Any],
    softmax: Callable[[Any], Any],
) -> Any:
    """Returns the network's output, by a framework's normalised convolution of a path and stride.

    softmax: the mean over the image, times the softmax's weights.
    """
    x = relu(convolution(x, "stem/convolution", 1))
    for path, _, _, stride in config.blocks():
        shortcut = x if stride == 1 else convolution(x, f"{path}/shortcut", stride)
        x = relu(convolution(x, f"{path}/convolutions/0", stride))
        x = relu(convolution(x, f"{path}/convolutions/1", 1) + shortcut)
    return softmax(x)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench resnet", description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, default="resnet20")
    parser.add_argument("--only", choices=TYPES, help="one type")
    add_rounds(parser)
    options = parser.parse_args()
    subjects_of = {"handwritten": "handwritten_resnet", "mtfrun": "mtfrun_resnet"}
    if importlib.util.find_spec("torch"):
        subjects_of["pytorch"] = "torch_resnet"
    for dtype in [options.only] if options.only else TYPES:
        arguments = ["--config", options.config, f"--activation={dtype}"]
        subjects = [
            Subject(f"{who} {dtype}", f"tests.bench.{module}", arguments)
            for who, module in subjects_of.items()
        ]
        images = CONFIGS[options.config].batch
        compare("resnet", options.config, subjects, options, images=images)


if __name__ == "__main__":
    main()
