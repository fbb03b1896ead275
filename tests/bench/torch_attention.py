"""A peer: causal self-attention with its gradients by PyTorch's scaled_dot_product_attention."""

import time

STARTED = time.time()

import argparse  # noqa: E402
import os  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

from tests.bench.worker import Step, serve  # noqa: E402

WIDTH, HEADS = 512, 8


def setup(arguments: argparse.Namespace) -> Step:
    """Returns a step, which blocks until its gradients are computed."""
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
    parsed = parser.parse_args()
    serve(lambda: setup(parsed), STARTED)
