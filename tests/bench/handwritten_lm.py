"""The reference: the same training step hand-written in TensorFlow, without names or layouts.

A decoder-only Transformer with learned positions, RMS norm before each sublayer, ReLU, untied
softmax, sparse cross entropy and plain SGD; the embedding is a gather.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tests.bench.train import CONFIGS, LmConfig, batch
from tests.bench.worker import Step, serve

LEARNING_RATE = 0.1


def weights(config: LmConfig, seed: int = 0) -> dict[str, tf.Variable]:
    """Returns variables by name; q includes the scale d_kv ** -0.5 of the logits."""
    rng = np.random.default_rng(seed)
    d, f = config.d_model, config.d_ff

    def normal(rows: int, columns: int, stddev: float) -> tf.Variable:
        return tf.Variable((rng.standard_normal((rows, columns)) * stddev).astype(np.float32))

    named = {"embedding": normal(config.vocabulary, d, 0.05)}
    named["position"] = normal(config.length, d, 0.05)
    for i in range(config.num_layers):
        named[f"norm1_{i}"] = tf.Variable(tf.ones([d]))
        named[f"q_{i}"] = normal(d, d, (d * config.d_kv) ** -0.5)
        for name in "kvo":
            named[f"{name}_{i}"] = normal(d, d, d**-0.5)
        named[f"norm2_{i}"] = tf.Variable(tf.ones([d]))
        named[f"wi_{i}"] = normal(d, f, d**-0.5)
        named[f"wo_{i}"] = normal(f, d, f**-0.5)
    named["norm"] = tf.Variable(tf.ones([d]))
    named["softmax"] = normal(d, config.vocabulary, d**-0.5)
    return named


def loss_function(
    config: LmConfig, w: dict[str, tf.Variable], dtype: tf.DType
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Returns loss(inputs, targets)."""
    b, s, d, h, k = config.batch, config.length, config.d_model, config.num_heads, config.d_kv
    mask = tf.constant(np.where(np.tril(np.ones([s, s])), 0.0, -1e9), dtype)

    def norm(x: tf.Tensor, scale: tf.Variable) -> tf.Tensor:
        x = tf.cast(x, tf.float32)
        variance = tf.reduce_mean(x * x, -1, keepdims=True)
        return tf.cast(x * tf.math.rsqrt(variance + 1e-6) * scale, dtype)

    def dense(x: tf.Tensor, kernel: tf.Variable) -> tf.Tensor:
        return tf.matmul(x, tf.cast(kernel, dtype))

    def heads(x: tf.Tensor) -> tf.Tensor:
        return tf.transpose(tf.reshape(x, [b, s, h, k]), [0, 2, 1, 3])

    def loss(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        x = tf.gather(w["embedding"], inputs) + w["position"]
        x = tf.reshape(tf.cast(x, dtype), [b * s, d])
        for i in range(config.num_layers):
            y = norm(x, w[f"norm1_{i}"])
            q, key, value = (heads(dense(y, w[f"{name}_{i}"])) for name in "qkv")
            probabilities = tf.nn.softmax(tf.matmul(q, key, transpose_b=True) + mask)
            o = tf.transpose(tf.matmul(probabilities, value), [0, 2, 1, 3])
            x += dense(tf.reshape(o, [b * s, d]), w[f"o_{i}"])
            y = norm(x, w[f"norm2_{i}"])
            x += dense(tf.nn.relu(dense(y, w[f"wi_{i}"])), w[f"wo_{i}"])
        logits = tf.cast(dense(norm(x, w["norm"]), w["softmax"]), tf.float32)
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(tf.reshape(targets, [-1]), logits)
        )

    return loss


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    variables = weights(config)
    loss = loss_function(config, variables, tf.as_dtype(arguments.activation))

    @tf.function(jit_compile=arguments.xla)  # type: ignore[untyped-decorator]
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(inputs, targets)
        gradients = tape.gradient(value, list(variables.values()))
        for variable, gradient in zip(variables.values(), gradients, strict=True):
            variable.assign_sub(LEARNING_RATE * tf.convert_to_tensor(gradient))
        return value

    inputs, targets = (tf.constant(x) for x in batch(config))
    return lambda: float(step(inputs, targets))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--activation", default="float32")
    parser.add_argument("--xla", action="store_true")
    serve(setup, parser)
