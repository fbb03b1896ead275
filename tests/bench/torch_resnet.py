"""A peer: the same training step in PyTorch, eager, channels last; bfloat16 by autocast."""

from __future__ import annotations

import argparse
import os

import torch
import torch.nn.functional as F

from tests.bench.resnet import CONFIGS, LEARNING_RATE, ResNetConfig, batch, logits, parameters
from tests.bench.worker import Step, serve

MOMENTUM = 0.1  # PyTorch's: the factor of the new statistics
EPSILON = 1e-5


class _Network:
    """Images and kernels are channels first, in channels-last memory."""

    def __init__(self, config: ResNetConfig) -> None:
        self._config = config
        self.weights: dict[str, torch.Tensor] = {}
        self._averages: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for path, array in parameters(config).items():
            weight = torch.tensor(array)
            if weight.ndim == 4:
                weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
            self.weights[path] = weight.requires_grad_()
            if path.endswith("/scale"):
                self._averages[path] = (torch.zeros(array.shape), torch.ones(array.shape))

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return logits(x, self._config, self._convolution, F.relu, self._softmax).float()

    def _convolution(self, x: torch.Tensor, path: str, stride: int) -> torch.Tensor:
        kernel = self.weights[f"{path}/convolution/kernel"]
        x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        scale, bias = (self.weights[f"{path}/norm/{name}"] for name in ("scale", "bias"))
        averages = self._averages[f"{path}/norm/scale"]
        return F.batch_norm(
            x, *averages, scale, bias, training=True, momentum=MOMENTUM, eps=EPSILON
        )

    def _softmax(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float().mean([2, 3])
        return x @ self.weights["softmax/kernel"] + self.weights["softmax/bias"]


def setup(arguments: argparse.Namespace) -> Step:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = CONFIGS[arguments.config]
    network = _Network(config)
    optimizer = torch.optim.SGD(list(network.weights.values()), lr=LEARNING_RATE, foreach=True)
    images, labels = (torch.tensor(x) for x in batch(config))
    images = images.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    labels = labels.long()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.activation == "bfloat16"):
            loss = F.cross_entropy(network.logits(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="resnet20", choices=CONFIGS)
    parser.add_argument("--activation", default="float32")
    serve(setup, parser)
