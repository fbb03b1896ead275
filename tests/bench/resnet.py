"""`bin/bench resnet`: a residual network's training step against a hand-written one.

The later image network of Mesh TensorFlow's users at two sizes, batch 32, and ResNet-20, batch
128, on images of 32 x 32, on one device. The reference is hand-written TensorFlow with its fused
batch norm, of the same type; where PyTorch can be imported, it is measured too.
"""

from __future__ import annotations

import abc
import argparse
import dataclasses
import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.bench.alternate import Subject, add_rounds, compare

TYPES = ("float32", "bfloat16")
LEARNING_RATE = 0.001
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Bottlenecks:
    """The later image network of Mesh TensorFlow's users, with stride 1 everywhere.

    A 3x3 convolution; for every stage `num_blocks` blocks of 1x1 convolution to `filters`, 3x3 to
    four times as many, 1x1 back, the last without a norm; a hidden layer over the whole image.
    """

    batch: int
    num_blocks: tuple[int, ...]
    filters: tuple[int, ...]
    hidden: int
    size: int = 32

    def blocks(self) -> Iterator[tuple[str, int, int, bool]]:
        """Yields the path of every block, its channels in and out, and whether it projects."""
        inputs, number = self.filters[0], 0
        for count, filters in zip(self.num_blocks, self.filters, strict=True):
            for i in range(count):
                yield f"blocks/{number}", inputs, filters, i == 0
                inputs, number = filters, number + 1


@dataclasses.dataclass(frozen=True)
class BasicBlocks:
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


CONFIGS: dict[str, Bottlenecks | BasicBlocks] = {
    "tiny": Bottlenecks(4, (1, 1, 1), (4, 4, 8), 8, size=8),
    "tiny20": BasicBlocks(4, (1, 1), (4, 8), size=8),
    "small": Bottlenecks(32, (1, 1, 1), (32, 32, 64), 64),
    "medium": Bottlenecks(32, (1, 2, 3), (64, 64, 64), 64),
    "resnet20": BasicBlocks(128, (3, 3, 3), (16, 32, 64)),
}


class _Weights:
    """Weights by path, drawn in the order of the calls."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.named: dict[str, np.ndarray] = {}

    def matrix(self, path: str, *shape: int) -> None:
        stddev = np.prod(shape[:-1]) ** -0.5
        self.named[path] = (self._rng.standard_normal(shape) * stddev).astype(np.float32)

    def dense(self, path: str, rows: int, columns: int) -> None:
        self.matrix(f"{path}/kernel", rows, columns)
        self.named[f"{path}/bias"] = np.zeros([columns], np.float32)

    def convolution(
        self, path: str, size: int, inputs: int, outputs: int, scale: float | None = 1.0
    ) -> None:
        """Draws a convolution, and adds its norm unless the scale is None."""
        if scale is None:
            self.matrix(f"{path}/kernel", size, size, inputs, outputs)
            return
        self.matrix(f"{path}/convolution/kernel", size, size, inputs, outputs)
        self.named[f"{path}/norm/scale"] = np.full([outputs], scale, np.float32)
        self.named[f"{path}/norm/bias"] = np.zeros([outputs], np.float32)


def parameters(config: Bottlenecks | BasicBlocks, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the trainable weights by path; kernels are [height, width, in, out]."""
    weights = _Weights(seed)
    if isinstance(config, BasicBlocks):
        weights.convolution("stem/convolution", 3, 3, config.widths[0])
        for path, inputs, width, stride in config.blocks():
            weights.convolution(f"{path}/convolutions/0", 3, inputs, width)
            weights.convolution(f"{path}/convolutions/1", 3, width, width)
            if stride != 1:
                weights.convolution(f"{path}/shortcut", 1, inputs, width)
        weights.dense("softmax", config.widths[-1], CLASSES)
        return weights.named
    weights.convolution("first", 3, 3, config.filters[0])
    for path, inputs, filters, projects in config.blocks():
        if projects:
            weights.convolution(f"{path}/projection", 1, inputs, filters, scale=0.0)
        weights.convolution(f"{path}/narrow", 1, inputs, filters)
        weights.convolution(f"{path}/wide", 3, filters, 4 * filters)
        weights.convolution(f"{path}/last", 1, 4 * filters, filters, scale=None)
    weights.dense("hidden", config.size**2 * config.filters[-1], config.hidden)
    weights.dense("softmax", config.hidden, CLASSES)
    return weights.named


def batch(config: Bottlenecks | BasicBlocks, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns normalised images [batch, rows, cols, 3] and int32 labels [batch]."""
    rng = np.random.default_rng(seed)
    shape = (config.batch, config.size, config.size, 3)
    images = rng.standard_normal(shape, np.float32)
    return images, rng.integers(0, CLASSES, [config.batch]).astype(np.int32)


class Network(abc.ABC):
    """The forward pass of a framework's network on the weights of `parameters`."""

    def __init__(self, config: Bottlenecks | BasicBlocks) -> None:
        self._config = config

    def features(self, x: Any) -> Any:
        """Returns the inputs of the softmax, [batch, channels]."""
        relu, config = self._relu, self._config
        if isinstance(config, BasicBlocks):
            x = relu(self._normalised(x, "stem/convolution"))
            for path, _, _, stride in config.blocks():
                shortcut = x if stride == 1 else self._normalised(x, f"{path}/shortcut", stride)
                x = relu(self._normalised(x, f"{path}/convolutions/0", stride))
                x = relu(self._normalised(x, f"{path}/convolutions/1") + shortcut)
            return self._mean(x)
        x = relu(self._normalised(x, "first"))
        for path, _, _, projects in config.blocks():
            shortcut = self._normalised(x, f"{path}/projection") if projects else x
            x = relu(self._normalised(x, f"{path}/narrow"))
            x = relu(self._normalised(x, f"{path}/wide"))
            x = relu(self._convolution(x, f"{path}/last") + shortcut)
        return relu(self._dense(self._flat(x), "hidden"))

    @abc.abstractmethod
    def _relu(self, x: Any) -> Any: ...

    @abc.abstractmethod
    def _mean(self, x: Any) -> Any: ...

    @abc.abstractmethod
    def _flat(self, x: Any) -> Any: ...

    @abc.abstractmethod
    def _convolution(self, x: Any, path: str, stride: int = 1) -> Any: ...

    @abc.abstractmethod
    def _normalised(self, x: Any, path: str, stride: int = 1) -> Any: ...

    @abc.abstractmethod
    def _dense(self, x: Any, path: str) -> Any: ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench resnet", description=__doc__)
    parser.add_argument("--config", choices=CONFIGS, help="one network; by default all")
    parser.add_argument("--only", choices=TYPES, help="one type")
    add_rounds(parser)
    options = parser.parse_args()
    names = [options.config] if options.config else [n for n in CONFIGS if "tiny" not in n]
    subjects_of = {"handwritten": "handwritten_resnet", "mtfrun": "mtfrun_resnet"}
    if importlib.util.find_spec("torch"):
        subjects_of["pytorch"] = "torch_resnet"
    for name in names:
        for dtype in [options.only] if options.only else TYPES:
            arguments = ["--config", name, f"--activation={dtype}"]
            subjects = [
                Subject(f"{who} {dtype}", f"tests.bench.{module}", arguments)
                for who, module in subjects_of.items()
            ]
            compare("resnet", name, subjects, options, images=CONFIGS[name].batch)


if __name__ == "__main__":
    main()
