"""A peer: causal self-attention with its gradients by PyTorch's scaled_dot_product_attention."""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
import torch.nn.functional as F

from tests.bench.worker import Step, serve

WIDTH, HEADS = 512, 8


def setup(arguments: argparse.Namespace) -> Step:
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.standard_normal(shape, np.float32))

    query_key_value = (normal(WIDTH, 3 * WIDTH) * WIDTH**-0.5).requires_grad_()
    output = (normal(WIDTH, WIDTH) * WIDTH**-0.5).requires_grad_()
    x = normal(arguments.batch, arguments.length, WIDTH)

    def step() -> float:
        projected = (x @ query_key_value).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind()
        y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        loss = (y.transpose(1, 2).flatten(2) @ output).square().sum()
        query_key_value.grad = output.grad = None
        loss.backward()
        return float(loss)

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--batch", type=int, default=1)
    serve(setup, parser)
