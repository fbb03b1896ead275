"""The reference: the same mixture hand-written in TensorFlow, which moves rows by gathers alone.

Forward, backward and a plain SGD update of the weights and the tokens. Slots are numbered
(expert, group, slot), so that the rows of an expert are contiguous and nothing is transposed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tests.bench.moe import CONFIGS, LEARNING_RATE, LOSS_COEF, MoeConfig, parameters
from tests.bench.worker import Step, serve


class Level(NamedTuple):
    """The routing of one level; row numbers are -1 for none."""

    token_of_slot: tf.Tensor  # [slots]
    slots: list[tf.Tensor]  # of each choice [tokens]
    gates: list[tf.Tensor]  # of each choice [tokens], the weights
    loss: tf.Tensor  # the balance loss


def route(logits: tf.Tensor, importance: tf.Tensor | None, slots: int) -> Level:
    """Returns the top-2 routing of logits [groups, tokens, experts]."""
    groups, tokens, experts = logits.shape
    gates = tf.nn.softmax(logits)
    first = tf.argmax(gates, -1, output_type=tf.int32)
    mask = tf.one_hot(first, experts)
    gate = tf.reduce_sum(gates * mask, -1)
    proxy = gates
    if importance is not None:
        full = tf.cast(tf.equal(importance, 1.0), tf.float32)
        mask, proxy = mask * full[..., None], gates * full[..., None]
        gate = gate * full
    remaining = gates * (1.0 - mask)
    second = tf.argmax(remaining, -1, output_type=tf.int32)
    second_mask = tf.one_hot(second, experts)
    second_gate = tf.reduce_sum(remaining * second_mask, -1)
    if importance is not None:
        second_mask *= tf.cast(importance > 0.0, tf.float32)[..., None]
    total = gate + second_gate + 1e-9
    density = tf.reduce_mean(mask, 1) * tf.reduce_mean(proxy, 1)
    loss = tf.reduce_mean(density) * float(experts**2)

    used = tf.zeros([groups, 1, experts])
    slot_rows, weights = [], []
    number = tf.range(groups)[:, None]
    for expert, choice, weight in (
        (first, mask, gate / total),
        (second, second_mask, second_gate / total),
    ):
        position = tf.reduce_sum((tf.cumsum(choice, 1, exclusive=True) + used) * choice, -1)
        dispatched = tf.reduce_sum(choice, -1) * tf.cast(position < slots, tf.float32)
        count = tf.reduce_sum(choice, 1, keepdims=True)
        used = tf.minimum(used + count, float(slots))
        row = (expert * groups + number) * slots + tf.cast(position, tf.int32)
        slot_rows.append(tf.reshape(tf.where(dispatched > 0.0, row, -1), [-1]))
        weights.append(tf.reshape(weight * dispatched, [-1]))
    rows = experts * groups * slots
    token = tf.tile(tf.range(groups * tokens) + 1, [2])
    where = tf.concat(slot_rows, 0)
    where = tf.where(where < 0, rows, where)
    table = tf.scatter_nd(where[:, None], token, [rows + 1])[:rows] - 1
    return Level(table, slot_rows, weights, loss)


def pick(x: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Returns rows of x; zeros for -1."""
    return tf.gather(x, tf.maximum(rows, 0)) * tf.cast(rows >= 0, x.dtype)[:, None]


def to_slots(x: tf.Tensor, level: Level) -> tf.Tensor:

    def fill(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return pick(x, level.token_of_slot), lambda dy: tf.add_n([pick(dy, s) for s in level.slots])

    return tf.custom_gradient(fill)(x)


def slot_gates(level: Level) -> tf.Tensor:
    """Returns the weight of every slot."""
    token = tf.maximum(level.token_of_slot, 0)
    is_first = tf.equal(tf.gather(level.slots[0], token), tf.range(token.shape[0]))
    gate = tf.where(is_first, *(tf.gather(g, token) for g in level.gates))
    return gate * tf.cast(level.token_of_slot >= 0, tf.float32)


def to_tokens(y: tf.Tensor, level: Level) -> tf.Tensor:
    """Returns the tokens' weighted sums of slots."""

    def collect(y: tf.Tensor, first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, Any]:
        rows = [pick(y, slots) for slots in level.slots]
        total = first[:, None] * rows[0] + second[:, None] * rows[1]

        def gradient(dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
            to_gates = [tf.reduce_sum(dy * row, -1) for row in rows]
            return pick(dy, level.token_of_slot) * slot_gates(level)[:, None], *to_gates

        return total, gradient

    return tf.custom_gradient(collect)(y, *level.gates)


def feed_forward(x: tf.Tensor, wi: tf.Variable, wo: tf.Variable) -> tf.Tensor:
    """Returns the experts' outputs for x [experts..., rows, d_model]."""
    return tf.matmul(tf.nn.relu(tf.matmul(x, wi)), wo)


def one_level(c: MoeConfig, w: dict[str, tf.Variable]) -> tuple[tf.Tensor, tf.Tensor]:
    x = tf.reshape(w["x"], [c.groups, c.group, c.d_model])
    level = route(tf.matmul(x, w["gate"]), None, c.slots)
    rows = to_slots(tf.reshape(x, [-1, c.d_model]), level)
    out = feed_forward(tf.reshape(rows, [c.expert_x, -1, c.d_model]), w["wi"], w["wo"])
    return to_tokens(tf.reshape(out, [-1, c.d_model]), level), level.loss


def two_levels(c: MoeConfig, w: dict[str, tf.Variable]) -> tuple[tf.Tensor, tf.Tensor]:
    d = c.d_model
    x = tf.reshape(w["x"], [c.groups, c.group, d])
    outer = route(tf.matmul(x, w["gate"]), None, c.slots)
    rows = tf.reshape(to_slots(tf.reshape(x, [-1, d]), outer), [c.expert_x, -1, d])
    gate = tf.stop_gradient(slot_gates(outer))
    importance = 0.5 * (tf.cast(gate > 0.5, tf.float32) + tf.cast(gate > 0.0, tf.float32))
    shape = [c.expert_x * c.inner_groups, c.inner_group]
    logits = tf.reshape(tf.matmul(rows, w["inner_gate"]), [*shape, c.expert_y])
    inner = route(logits, tf.reshape(importance, shape), c.inner_slots)
    slots = tf.reshape(to_slots(tf.reshape(rows, [-1, d]), inner), [c.expert_y, c.expert_x, -1, d])
    out = tf.reshape(feed_forward(slots, w["wi"], w["wo"]), [-1, d])
    return to_tokens(to_tokens(out, inner), outer), outer.loss + inner.loss


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    weights = {name: tf.Variable(value) for name, value in parameters(config).items()}

    @tf.function  # type: ignore[untyped-decorator]
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            y, balance = (two_levels if config.expert_y else one_level)(config, weights)
            loss = tf.reduce_mean(tf.square(y)) + LOSS_COEF * balance
        for variable, gradient in zip(
            weights.values(), tape.gradient(loss, list(weights.values())), strict=True
        ):
            variable.assign_sub(LEARNING_RATE * gradient)
        return loss

    return lambda: float(step())


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="2d_4x4_g256", choices=CONFIGS)
    serve(setup, parser)
