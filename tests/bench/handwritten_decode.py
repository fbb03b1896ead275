"""The reference: the same search hand-written in TensorFlow, without names or layouts.

The search is one program of XLA: keys and values of the encoder are computed once, caches are
updated in place and grow in four segments, projections are fused, beams are reordered by gathers,
and the top-k, in blocks, is exact. With --prompt a language model continues prompts greedily: it
reads them in one pass, then a loop updates caches in place.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python import xla

from tests.bench.decode import ALPHA, NO_END, DecodeConfig, add_sizes, prompts, sizes, weight
from tests.bench.worker import Step, serve

Tensors = list[tf.Tensor]
# The body of a loop: from its variables to their next values.
Body = Callable[..., tuple[Any, ...]]

SEGMENTS = 4
BLOCK = 128
MINUS_INFINITY = -1e7


def norm(x: tf.Tensor, scale: tf.Variable) -> tf.Tensor:
    return x * tf.math.rsqrt(tf.reduce_mean(x * x, -1, keepdims=True) + 1e-6) * scale


def feed_forward(x: tf.Tensor, block: dict[str, tf.Variable]) -> tf.Tensor:
    y = tf.nn.relu(tf.matmul(norm(x, block["norm2"]), block["wi"]))
    return x + tf.matmul(y, block["wo"])


class Weights:
    """Variables as matrices, which have the values of mtfrun's."""

    def __init__(self, c: DecodeConfig, longest: int, sides: Sequence[str]):
        self._has_encoder = "encoder" in sides
        self._heads = [c.d_model, c.num_heads, c.d_kv]

        def variable(*parts: np.ndarray) -> tf.Variable:
            return tf.Variable(np.concatenate(parts, axis=-1))

        self.embedding = variable(weight("embedding/table", (c.vocabulary, c.d_model)))
        self.position = variable(weight("position/table", (longest, c.d_model)))
        self.softmax = variable(weight("softmax/kernel", (c.d_model, c.vocabulary)))
        self.final_norm = {}
        self.blocks: dict[str, list[dict[str, tf.Variable]]] = {}
        for side in sides:
            self.final_norm[side] = tf.Variable(tf.ones([c.d_model]))
            self.blocks[side] = [self._block(variable, side, i, c) for i in range(c.num_layers)]

    def _block(
        self, variable: Callable[..., tf.Variable], side: str, i: int, c: DecodeConfig
    ) -> dict[str, tf.Variable]:
        root = f"{side}_stack/blocks/{i}"

        def projections(layer: str, *names: str) -> tf.Variable:
            paths = [f"{root}/{layer}/layer/attention/{name}" for name in names]
            return variable(
                *(weight(path, tuple(self._heads)).reshape([c.d_model, -1]) for path in paths)
            )

        def output(layer: str) -> tf.Variable:
            path = f"{root}/{layer}/layer/attention/output"
            return variable(weight(path, (c.num_heads, c.d_kv, c.d_model)).reshape([-1, c.d_model]))

        block = {
            "qkv": projections("self_attention", "query", "key", "value"),
            "o": output("self_attention"),
            "wi": variable(weight(f"{root}/feed_forward/layer/wi/kernel", (c.d_model, c.d_ff))),
            "wo": variable(weight(f"{root}/feed_forward/layer/wo/kernel", (c.d_ff, c.d_model))),
        }
        if side == "decoder" and self._has_encoder:
            block["cross_q"] = projections("encoder_decoder_attention", "query")
            block["cross_kv"] = projections("encoder_decoder_attention", "key", "value")
            block["cross_o"] = output("encoder_decoder_attention")
        for n in range(3):
            block[f"norm{n}"] = tf.Variable(tf.ones([c.d_model]))
        return block


def search_function(c: DecodeConfig, w: Weights, beams: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns search(ids [batch, inputs_length]) -> ids [batch, targets_length], the best ones."""
    b, d, h, k = c.batch, c.d_model, c.num_heads, c.d_kv
    rows, length, vocab = b * beams, c.targets_length, c.vocabulary
    positions = tf.range(length)

    def encode(ids: tf.Tensor) -> tf.Tensor:
        n = c.inputs_length
        x = tf.reshape(tf.gather(w.embedding, ids) + w.position[:n], [b * n, d])
        for block in w.blocks["encoder"]:
            y = tf.reshape(tf.matmul(norm(x, block["norm0"]), block["qkv"]), [b, n, 3, h, k])
            q, key, value = tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4]))
            o = tf.matmul(tf.nn.softmax(tf.matmul(q, key, transpose_b=True)), value)
            o = tf.reshape(tf.transpose(o, [0, 2, 1, 3]), [b * n, d])
            x = feed_forward(x + tf.matmul(o, block["o"]), block)
        return norm(x, w.final_norm["encoder"])

    def cross_keys_and_values(encoded: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        pairs = []
        for block in w.blocks["decoder"]:
            y = tf.matmul(encoded, block["cross_kv"])
            y = tf.reshape(y, [b, c.inputs_length, 2, h, k])
            key, value = tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4]))
            pairs.append((tf.transpose(key, [0, 1, 3, 2]), value))
        return pairs

    def logits(
        t: tf.Tensor,
        token: tf.Tensor,
        keys: Tensors,
        values: Tensors,
        cross: list[tuple[tf.Tensor, tf.Tensor]],
    ) -> tuple[tf.Tensor, Tensors, Tensors]:
        """Returns [rows, vocab] and the caches [batch, beams, heads, positions, d_kv]."""
        x = tf.gather(w.embedding, token) + tf.gather(w.position, t)
        mask = tf.where(positions[: keys[0].shape[3]] <= t, 0.0, -1e9)
        start = tf.stack([0, 0, 0, t, 0])
        new_keys, new_values = [], []
        for i, block in enumerate(w.blocks["decoder"]):
            y = tf.reshape(tf.matmul(norm(x, block["norm0"]), block["qkv"]), [b, beams, 3, h, k])
            q, key, value = (tf.expand_dims(part, 3) for part in tf.unstack(y, axis=2))
            new_keys.append(xla.dynamic_update_slice(keys[i], key, start))
            new_values.append(xla.dynamic_update_slice(values[i], value, start))
            probabilities = tf.nn.softmax(tf.matmul(q, new_keys[i], transpose_b=True) + mask)
            o = tf.reshape(tf.matmul(probabilities, new_values[i]), [rows, d])
            x += tf.matmul(o, block["o"])
            q = tf.reshape(tf.matmul(norm(x, block["norm1"]), block["cross_q"]), [b, beams, h, k])
            probabilities = tf.nn.softmax(tf.matmul(tf.transpose(q, [0, 2, 1, 3]), cross[i][0]))
            o = tf.transpose(tf.matmul(probabilities, cross[i][1]), [0, 2, 1, 3])
            x += tf.matmul(tf.reshape(o, [rows, d]), block["cross_o"])
            x = feed_forward(x, block)
        return tf.matmul(norm(x, w.final_norm["decoder"]), w.softmax), new_keys, new_values

    def greedy(cross: list[tuple[tf.Tensor, tf.Tensor]]) -> Body:
        def body(
            t: tf.Tensor, ids: tf.Tensor, token: tf.Tensor, keys: Tensors, values: Tensors
        ) -> tuple[Any, ...]:
            scores, keys, values = logits(t, token, keys, values, cross)
            token = tf.argmax(scores, -1, output_type=tf.int32)
            ids = tf.where(positions == t, token[:, None], ids)
            return t + 1, ids, token, keys, values

        return body

    def beam(cross: list[tuple[tf.Tensor, tf.Tensor]]) -> Body:
        def body(
            t: tf.Tensor,
            ids: tf.Tensor,
            token: tf.Tensor,
            log_probs: tf.Tensor,
            finished_ids: tf.Tensor,
            finished_scores: tf.Tensor,
            finished: tf.Tensor,
            keys: Tensors,
            values: Tensors,
        ) -> tuple[Any, ...]:
            scores, keys, values = logits(t, token, keys, values, cross)
            scores -= tf.reduce_logsumexp(scores, -1, keepdims=True)
            scores = tf.reshape(scores, [b, beams, vocab]) + log_probs[:, :, None]
            best, index = top_of_blocks(tf.reshape(scores, [b, beams * vocab]), 2 * beams)
            parent, chosen = index // vocab, index % vocab
            longer = tf.where(
                positions == t, chosen[:, :, None], tf.gather(ids, parent, batch_dims=1)
            )
            ended = tf.equal(chosen, NO_END)
            log_probs, active = tf.math.top_k(tf.where(ended, MINUS_INFINITY, best), beams)
            penalty = ((5.0 + tf.cast(t + 1, tf.float32)) / 6.0) ** ALPHA
            pool = tf.concat([finished_scores, tf.where(ended, best / penalty, MINUS_INFINITY)], 1)
            finished_scores, best_finished = tf.math.top_k(pool, beams)
            finished_ids = tf.gather(
                tf.concat([finished_ids, longer], 1), best_finished, batch_dims=1
            )
            finished = tf.gather(tf.concat([finished, ended], 1), best_finished, batch_dims=1)
            ids = tf.gather(longer, active, batch_dims=1)
            token = tf.reshape(tf.gather(chosen, active, batch_dims=1), [rows])
            parent = tf.gather(parent, active, batch_dims=1)
            keys, values = (
                [tf.gather(x, parent, batch_dims=1) for x in caches] for caches in (keys, values)
            )
            ended_beams = (finished_ids, finished_scores, finished)
            return (t + 1, ids, token, log_probs, *ended_beams, keys, values)

        return body

    def first_variables() -> list[tf.Tensor]:
        t, token = tf.constant(0), tf.zeros([rows], tf.int32)
        if beams == 1:
            return [t, tf.zeros([rows, length], tf.int32), token]
        ids = tf.zeros([b, beams, length], tf.int32)
        log_probs = tf.constant([[0.0] + [MINUS_INFINITY] * (beams - 1)] * b)
        finished = tf.zeros([b, beams], tf.bool)
        return [t, ids, token, log_probs, ids, tf.fill([b, beams], MINUS_INFINITY), finished]

    def search(ids: tf.Tensor) -> tf.Tensor:
        cross = cross_keys_and_values(encode(ids))
        body = (greedy if beams == 1 else beam)(cross)
        variables = first_variables()
        step = length // SEGMENTS
        caches = [[tf.zeros([b, beams, h, 0, k])] * c.num_layers for _ in "kv"]
        for end in range(step, length + 1, step):
            paddings = [[0, 0], [0, 0], [0, 0], [0, step], [0, 0]]
            caches = [[tf.pad(x, paddings) for x in layers] for layers in caches]
            *variables, keys, values = tf.while_loop(
                lambda t, *_, end=end: t < end, body, [*variables, *caches]
            )
            caches = [keys, values]
        if beams == 1:
            return variables[1]
        active, finished_ids, finished = variables[1], variables[4], variables[6]
        return tf.where(tf.reduce_any(finished, 1)[:, None, None], finished_ids, active)[:, 0]

    return tf.function(search, jit_compile=True)


def top_of_blocks(scores: tf.Tensor, number: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the best scores of [batch, n] and their indices, best first.

    They are in the blocks with the highest maxima, which are sorted faster than all scores.
    """
    b, n = scores.shape
    if n < number * BLOCK:
        return tf.math.top_k(scores, number)
    blocks = tf.reshape(scores, [b, n // BLOCK, BLOCK])
    chosen = tf.math.top_k(tf.reduce_max(blocks, -1), number).indices
    candidates = tf.reshape(tf.gather(blocks, chosen, batch_dims=1), [b, number * BLOCK])
    best, index = tf.math.top_k(candidates, number)
    return best, tf.gather(chosen, index // BLOCK, batch_dims=1) * BLOCK + index % BLOCK


# Keys and values of a block.
Cache = tuple[tf.Tensor, tf.Tensor]


def continue_function(c: DecodeConfig, w: Weights, prompt: int) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns f(ids [batch, prompt]) -> [batch, prompt + targets_length], greedily."""
    b, d, h, k = c.batch, c.d_model, c.num_heads, c.d_kv
    length = prompt + c.targets_length

    def block(x: tf.Tensor, i: int, n: int, attend: Callable[..., tf.Tensor]) -> tf.Tensor:
        """x: [batch * n, d_model] of n positions; attend: of q, k, v [batch, heads, n, d_kv]."""
        v = w.blocks["decoder"][i]
        y = tf.reshape(tf.matmul(norm(x, v["norm0"]), v["qkv"]), [b, n, 3, h, k])
        o = attend(*tf.unstack(tf.transpose(y, [2, 0, 3, 1, 4])))
        o = tf.reshape(tf.transpose(o, [0, 2, 1, 3]), [b * n, d])
        return feed_forward(x + tf.matmul(o, v["o"]), v)

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
        logits = tf.matmul(norm(x, w.final_norm["decoder"]), w.softmax)
        token = tf.argmax(logits, -1, output_type=tf.int32)
        return t + 1, tf.where(tf.range(length) == t, token[:, None], ids), token, written

    def run(ids: tf.Tensor) -> tf.Tensor:
        first = tf.pad(ids, [[0, 0], [0, length - prompt]])
        variables = [tf.constant(prompt), first, ids[:, -1], prefill(ids)]
        return tf.while_loop(lambda t, *_: t < length, step, variables)[1]

    return tf.function(run, jit_compile=True)


def setup(arguments: argparse.Namespace) -> Step:
    config = sizes(arguments)
    if arguments.prompt is not None:
        weights = Weights(config, arguments.prompt + config.targets_length, ["decoder"])
        run = continue_function(config, weights, arguments.prompt)
        prompt_ids = tf.constant(prompts(config, arguments.prompt))
        return lambda: float(np.sum(run(prompt_ids).numpy()))
    longest = max(config.inputs_length, config.targets_length)
    weights = Weights(config, longest, ["encoder", "decoder"])
    search = search_function(config, weights, arguments.beam)
    ids = tf.constant(prompts(config, config.inputs_length))
    return lambda: float(np.sum(search(ids).numpy()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_sizes(parser)
    parser.add_argument("--beam", type=int, default=1)
    parser.add_argument("--prompt", type=int, help="length of prompts of a language model")
    serve(setup, parser)
