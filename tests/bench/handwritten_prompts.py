"""The reference: prompts continued by hand-written TensorFlow, without names or layouts.

One program of XLA: the prompts are read in one pass, then a loop updates caches in place.
"""

import time

STARTED = time.time()

import argparse  # noqa: E402
from collections.abc import Callable  # noqa: E402

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.compiler.tf2xla.python import xla  # noqa: E402

from tests.bench.decode_configs import CONFIGS, DecodeConfig, prompts, weight  # noqa: E402
from tests.bench.handwritten_decode import norm  # noqa: E402
from tests.bench.worker import Step, serve  # noqa: E402

# Keys and values of a block.
Cache = tuple[tf.Tensor, tf.Tensor]


class Weights:
    """Variables as matrices, which have the values of mtfrun's."""

    def __init__(self, c: DecodeConfig, length: int):
        heads = (c.d_model, c.num_heads, c.d_kv)
        self.embedding = tf.Variable(weight("embedding/table", (c.vocabulary, c.d_model)))
        self.position = tf.Variable(weight("position/table", (length, c.d_model)))
        self.softmax = tf.Variable(weight("softmax/kernel", (c.d_model, c.vocabulary)))
        self.final_norm = tf.Variable(tf.ones([c.d_model]))
        self.blocks = []
        for i in range(c.num_layers):
            root = f"decoder_stack/blocks/{i}"
            attention = f"{root}/self_attention/layer/attention"
            qkv = [
                weight(f"{attention}/{name}", heads).reshape([c.d_model, -1])
                for name in ("query", "key", "value")
            ]
            output = weight(f"{attention}/output", (*heads[1:], c.d_model))
            feed_forward = f"{root}/feed_forward/layer"
            values = {
                "qkv": np.concatenate(qkv, axis=-1),
                "o": output.reshape([-1, c.d_model]),
                "wi": weight(f"{feed_forward}/wi/kernel", (c.d_model, c.d_ff)),
                "wo": weight(f"{feed_forward}/wo/kernel", (c.d_ff, c.d_model)),
                "norm0": np.ones([c.d_model], np.float32),
                "norm1": np.ones([c.d_model], np.float32),
            }
            self.blocks.append({name: tf.Variable(value) for name, value in values.items()})


def continue_function(c: DecodeConfig, w: Weights, prompt: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns f(ids [batch, prompt]) -> [batch, prompt + targets_length], greedily."""
    b, d, h, k = c.batch, c.d_model, c.num_heads, c.d_kv
    length = prompt + c.targets_length

    def block(x: tf.Tensor, i: int, n: int, attend: Callable[..., tf.Tensor]) -> tf.Tensor:
        """Returns the output of a block.

        Args:
          x: [batch * n, d_model].
          i: the block.
          n: the number of positions.
          attend: a function of query, key and value [batch, heads, n, d_kv].
        """
        v = w.blocks[i]
        y = tf.reshape(tf.matmul(norm(x, v["norm0"]), v["qkv"]), [b, n, 3, h, k])
        o = attend(*tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4])))
        o = tf.reshape(tf.transpose(o, [0, 2, 1, 3]), [b * n, d])
        x += tf.matmul(o, v["o"])
        return x + tf.matmul(tf.nn.relu(tf.matmul(norm(x, v["norm1"]), v["wi"])), v["wo"])

    def weighted(q: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        return tf.matmul(tf.nn.softmax(tf.matmul(q, key, transpose_b=True) + mask), value)

    def prefill(ids: tf.Tensor) -> list[Cache]:
        previous = tf.pad(ids[:, :-1], [[0, 0], [1, 0]])
        x = tf.reshape(tf.gather(w.embedding, previous) + w.position[:prompt], [b * prompt, d])
        mask = tf.constant(np.where(np.tril(np.ones([prompt, prompt])), 0.0, -1e9), tf.float32)
        caches: list[Cache] = []

        def attend(q: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
            paddings = [[0, 0], [0, 0], [0, length - prompt], [0, 0]]
            caches.append((tf.pad(key, paddings), tf.pad(value, paddings)))
            return weighted(q, key, value, mask)

        for i in range(c.num_layers):
            x = block(x, i, prompt, attend)
        return caches

    def step(
        t: tf.Tensor, ids: tf.Tensor, token: tf.Tensor, caches: list[Cache]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[Cache]]:
        x = tf.gather(w.embedding, token) + tf.gather(w.position, t)
        mask = tf.where(tf.range(length) <= t, 0.0, -1e9)
        start = tf.stack([0, 0, t, 0])
        written: list[Cache] = []
        for i in range(c.num_layers):

            def attend(q: tf.Tensor, key: tf.Tensor, value: tf.Tensor, i: int = i) -> tf.Tensor:
                old_keys, old_values = caches[i]
                keys = xla.dynamic_update_slice(old_keys, key, start)
                values = xla.dynamic_update_slice(old_values, value, start)
                written.append((keys, values))
                return weighted(q, keys, values, mask)

            x = block(x, i, 1, attend)
        logits = tf.matmul(norm(x, w.final_norm), w.softmax)
        token = tf.argmax(logits, -1, output_type=tf.int32)
        return t + 1, tf.where(tf.range(length) == t, token[:, None], ids), token, written

    def run(ids: tf.Tensor) -> tf.Tensor:
        first = tf.pad(ids, [[0, 0], [0, length - prompt]])
        variables = [tf.constant(prompt), first, ids[:, -1], prefill(ids)]
        return tf.while_loop(lambda t, *_: t < length, step, variables)[1]

    return tf.function(run, jit_compile=True)


def setup(arguments: argparse.Namespace) -> Step:
    """Returns a step, which continues the prompts and blocks until the ids are computed."""
    config = CONFIGS[arguments.config]
    weights = Weights(config, arguments.prompt + config.targets_length)
    run = continue_function(config, weights, arguments.prompt)
    ids = tf.constant(prompts(config, arguments.prompt))
    return lambda: float(np.sum(run(ids).numpy()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--prompt", type=int, default=192)
    parsed = parser.parse_args()
    serve(lambda: setup(parsed), STARTED)
