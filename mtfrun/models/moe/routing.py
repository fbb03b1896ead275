"""Which token goes to which slot of which expert."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment
from mtfrun.models.moe.balance import z_loss


@dataclasses.dataclass(frozen=True)
class Choice:
    """One expert for every token, all {..., group}.

    Args:
      expert: int32, the expert.
      position: int32, the token's slot in it; means nothing where it was not kept.
      kept: 1.0 where the token gets there, 0.0 where it does not, for any reason; float32.
      wanted: 1.0 where it would, had the expert room; float32.
      gate: the weight of the expert's output, 0 where it was not kept; float32.
    """

    expert: mtf.Tensor
    position: mtf.Tensor
    kept: mtf.Tensor
    wanted: mtf.Tensor
    gate: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Routing:
    """What a gate decided for tokens {..., group}.

    The tokens of an expert in a group fill its slots 0, 1, ... without holes.

    Args:
      choices: the experts of every token, best first.
      group, experts, capacity: the dimensions.
      gates: the router's probabilities {..., group, experts}, for reports.
      loss: what is added to the training loss: balance, and what keeps logits small; a scalar.
      balance_loss: the first part alone.
    """

    choices: Sequence[Choice]
    group: mtf.Dimension
    experts: mtf.Dimension
    capacity: mtf.Dimension
    gates: mtf.Tensor
    loss: mtf.Tensor
    balance_loss: mtf.Tensor

    @property
    def batch(self) -> mtf.Shape:
        """The dimensions before the group: groups do not meet."""
        return self.choices[0].expert.shape - self.group

    @functools.cached_property
    def counts(self) -> mtf.Tensor:
        """How many slots of an expert are filled: {..., experts} float32."""
        shape = self.batch + self.experts
        return mtf.add_n(
            [
                mtf.einsum([choice.kept, mtf.one_hot(choice.expert, self.experts)], shape)
                for choice in self.choices
            ]
        )

    @functools.cached_property
    def source_of_slot(self) -> mtf.Tensor:
        """Which token fills a slot: {..., experts, capacity} int32, -1 for an empty one.

        Token s as its choice k is k * group.size + s. Found by sorting the slot numbers of all
        choices: a scatter would be gathered on every device of a mesh.
        """
        sources = mtf.Dimension("sources", len(self.choices) * self.group.size)
        slots = self.experts.size * self.capacity.size
        taken = [
            mtf.where(
                mtf.greater(choice.kept, 0.0),
                choice.expert * self.capacity.size + choice.position,
                slots,
            )
            for choice in self.choices
        ]
        stacked = mtf.stack(taken, "choice", axis=self.batch.ndims)
        all_slots = mtf.reshape(stacked, self.batch + sources)
        rank = mtf.Dimension("rank", sources.size)
        _, by_slot = mtf.top_k(mtf.negative(all_slots), sources, rank)
        first = mtf.to_int32(mtf.cumsum(self.counts, self.experts, exclusive=True))
        position = mtf.range(first.mesh, self.capacity, tf.int32)
        shape = self.batch + [self.experts, self.capacity]
        filled = mtf.less(mtf.to_float(position), self.counts, output_shape=shape)
        place = mtf.minimum(mtf.add(first, position, output_shape=shape), sources.size - 1)
        found = mtf.gather_rows(by_slot, [(rank, place)], shape)
        return mtf.where(filled, found, -1)

    @functools.cached_property
    def token_of_slot(self) -> mtf.Tensor:
        """The token in a slot, whatever choice of it that is: {..., experts, capacity}, or -1."""
        source = self.source_of_slot
        return mtf.where(mtf.less(source, 0), source, mtf.mod(source, self.group.size))

    def combine_tensor(self, dtype: tf.DType = tf.float32) -> mtf.Tensor:
        """Returns the weights {..., group, experts, capacity} of slots in a token's output."""
        shape = self.batch + [self.group, self.experts, self.capacity]
        parts = []
        for choice in self.choices:
            expert = mtf.one_hot(choice.expert, self.experts)
            slot = mtf.one_hot(choice.position, self.capacity)
            parts.append(mtf.multiply(choice.gate * expert, slot, output_shape=shape))
        return mtf.cast(mtf.add_n(parts), dtype)

    def dispatch_tensor(self, dtype: tf.DType = tf.float32) -> mtf.Tensor:
        """Returns 1 where a token is in a slot: {..., group, experts, capacity}."""
        return mtf.cast(mtf.not_equal(self.combine_tensor(dtype), 0.0), dtype)


def make_routing(
    choices: Sequence[Choice],
    gates: mtf.Tensor,
    balance: mtf.Tensor,
    assignment: Assignment,
    *,
    logits: mtf.Tensor,
    z_loss_coef: float = 0.0,
) -> Routing:
    """Returns what a gate decided. Its loss is the balance loss, in training with the z-loss.

    Args:
      choices, gates, balance: see `Routing`.
      assignment: the dimensions, importance, training.
      logits: {..., group, experts} of the gates.
      z_loss_coef: the coefficient of the z-loss.
    """
    loss = balance
    if z_loss_coef and assignment.training:
        loss = balance + z_loss_coef * z_loss(logits, assignment)
    return Routing(tuple(choices), *assignment.dims, gates, loss, balance)
