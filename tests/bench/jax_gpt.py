"""A peer: the plain GPT in JAX, one compiled step with AdamW, its buffers donated."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.bench import plain_gpt as gpt

Tree = dict[str, Any]


def initial_values(seed: int) -> Tree:
    generator = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        values = generator.normal(0.0, gpt.INITIAL_STDDEV * scale, [rows, columns])
        return jnp.asarray(values, jnp.float32)

    def norm() -> Tree:
        return {"scale": jnp.ones(gpt.D_MODEL), "bias": jnp.zeros(gpt.D_MODEL)}

    residual = (2 * gpt.LAYERS) ** -0.5  # as in GPT-2
    blocks = [
        {
            "norm_1": norm(),
            "qkv": matrix(gpt.D_MODEL, 3 * gpt.D_MODEL),
            "output": matrix(gpt.D_MODEL, gpt.D_MODEL, residual),
            "norm_2": norm(),
            "up": matrix(gpt.D_MODEL, gpt.D_FF),
            "down": matrix(gpt.D_FF, gpt.D_MODEL, residual),
        }
        for _ in range(gpt.LAYERS)
    ]
    return {
        "embedding": matrix(gpt.VOCAB, gpt.D_MODEL),
        "positions": matrix(gpt.LENGTH, gpt.D_MODEL),
        "blocks": blocks,
        "norm": norm(),
        "logits": matrix(gpt.D_MODEL, gpt.VOCAB),
    }


def layer_norm(x: jax.Array, weights: Tree) -> jax.Array:
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
    return x * weights["scale"] + weights["bias"]


def summed_loss(weights: Tree, ids: jax.Array) -> jax.Array:
    inputs, targets = ids[:, :-1], ids[:, 1:]
    batch, length = inputs.shape
    mask = jnp.tril(jnp.ones([length, length], bool))
    x = weights["embedding"][inputs] + weights["positions"]
    for block in weights["blocks"]:
        parts = layer_norm(x, block["norm_1"]) @ block["qkv"]
        q, k, v = parts.reshape(batch, length, 3, gpt.HEADS, -1).transpose(2, 0, 3, 1, 4)
        logits = q @ k.swapaxes(-1, -2) / q.shape[-1] ** 0.5
        y = jax.nn.softmax(jnp.where(mask, logits, -1e9)) @ v
        x = x + y.transpose(0, 2, 1, 3).reshape(batch, length, -1) @ block["output"]
        hidden = jax.nn.gelu(layer_norm(x, block["norm_2"]) @ block["up"])
        x = x + hidden @ block["down"]
    logits = layer_norm(x, weights["norm"]) @ weights["logits"]
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jnp.sum(jax.nn.logsumexp(logits, -1) - chosen)


@functools.partial(jax.jit, donate_argnums=(0, 1, 2))
def update(weights: Tree, mean: Tree, square: Tree, ids: Any, rate: Any, number: Any) -> Any:
    tokens = ids.shape[0] * (ids.shape[1] - 1)
    gradients = jax.grad(lambda x: summed_loss(x, ids) / tokens)(weights)
    norm = jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(gradients)))
    scale = jnp.minimum(1.0, gpt.CLIP_NORM / (norm + 1e-6))
    gradients = jax.tree.map(lambda x: x * scale, gradients)
    mean = jax.tree.map(lambda m, g: gpt.BETA1 * m + (1 - gpt.BETA1) * g, mean, gradients)
    square = jax.tree.map(lambda s, g: gpt.BETA2 * s + (1 - gpt.BETA2) * g * g, square, gradients)
    mean_factor, square_factor = 1 - gpt.BETA1**number, 1 - gpt.BETA2**number

    def apply(x: jax.Array, m: jax.Array, s: jax.Array) -> jax.Array:
        decay = gpt.WEIGHT_DECAY if x.ndim == 2 else 0.0
        direction = (m / mean_factor) / (jnp.sqrt(s / square_factor) + gpt.EPSILON)
        return x - rate * (direction + decay * x)

    return jax.tree.map(apply, weights, mean, square), mean, square


def main() -> None:
    options = gpt.parse_options()
    weights = initial_values(options.seed)
    gpt.count(sum(x.size for x in jax.tree.leaves(weights)))
    state = [weights, *(jax.tree.map(jnp.zeros_like, weights) for _ in range(2))]
    number = 0
    loss = jax.jit(summed_loss)

    def step(batch: np.ndarray, rate: float) -> None:
        nonlocal number
        number += 1
        state[:] = update(*state, batch, rate, float(number))

    def evaluate(batch: np.ndarray) -> float:
        return float(loss(state[0], batch))

    gpt.train(options, step, evaluate, wait=lambda: jax.block_until_ready(state))


if __name__ == "__main__":
    main()
