"""The base class of mixtures of experts as sublayers, with their metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import tensorflow as tf

from mtfrun import mtf
from mtfrun.layers import Metric
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.routing import Routing
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer

# Tokens by their number of experts: 0, 1, 2, 3, or 4 and more.
_EXPERTS_PER_TOKEN = mtf.Dimension("experts_per_token", 5)
# The experts of the first of two levels: a batch dimension of the second level's routing.
_OUTER_EXPERTS = "expert_x"


class TokenRouting(Protocol):
    """The combined routing of all levels of a mixture; a `Routing` if there is one level."""

    def experts_per_token(self) -> mtf.Tensor:
        """Returns how many experts a token has, float32."""

    def first_expert(self) -> mtf.Tensor:
        """Returns the best expert in which a token has a slot, int32, or -1."""


class Mixture(Sublayer):
    """A mixture of experts of one or more levels; subclasses make the experts and route tokens.

    Metrics of a level: "load" {experts_of_level}, every expert's share of the dispatched tokens;
    "dropped", the share of choices that capacity dropped; "entropy" of a token's gates, in nats;
    "balance_loss", 1 where the load is uniform: its means count padding, and on the second of two
    levels empty slots and second choices, so that it is smaller there.

    `experts_of_levels`: the number of experts that a level chooses among, by the level's name.
    """

    experts: Experts

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        *,
        loss_coef: float,
        experts_of_levels: Mapping[str, int],
    ) -> None:
        super().__init__()
        self._mesh, self._d_model = mesh, d_model
        self._loss_coef = loss_coef
        self._experts_of_levels = experts_of_levels

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        shapes = {}
        for level, number in self._experts_of_levels.items():
            shapes[f"{level}/load"] = mtf.Shape([_experts_of_level(number)])
            shapes |= {f"{level}/{x}": mtf.Shape() for x in ("dropped", "entropy", "balance_loss")}
        return {**shapes, "experts_per_token": mtf.Shape([_EXPERTS_PER_TOKEN])}

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return (x.shape - self._d_model) + self.experts.output_dim

    def _report(
        self,
        levels: Mapping[str, tuple[Routing, mtf.Tensor | None]],
        mixture: TokenRouting,
        call: SequenceCall,
    ) -> None:
        """Adds losses and metrics to the call's collector, and first experts to its recorder.

        `levels`: by name the routing of each level, and the importance of its tokens {..., group},
        0 for padding.
        """
        if call.collector is not None:
            loss = mtf.add_n([routing.loss for routing, _ in levels.values()])
            call.collector.add_loss(self, self._loss_coef * loss)
            metrics = {
                f"{level}/{name}": metric
                for level, routed in levels.items()
                for name, metric in _level_metrics(*routed).items()
            }
            metrics["experts_per_token"] = _experts_per_token(mixture, levels["level_1"][1])
            call.collector.add_metrics(
                self, {name: Metric(*map(mtf.stop_gradient, x)) for name, x in metrics.items()}
            )
        if call.recorder is not None:
            *outer, _ = (routing for routing, _ in levels.values())
            for level, routed in zip(levels, [*outer, mixture], strict=True):
                call.recorder.add_experts(self, level, routed.first_expert())


class CapacityMixture(Mixture):
    """A mixture with a limited number of slots in every expert."""

    _capacity: Capacity

    @property
    def depends_on_padding(self) -> bool:
        return True

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Computes about a group of tokens at a time, since every expert has a slot for each."""
        y = _map_chunks(
            lambda chunk: self.step(chunk, (), call)[0],
            x,
            self.experts.output_dim,
            self._capacity.group_size,
        )
        return y, state


def shares_of(module: mtf.Module, share: float) -> dict[mtf.Variable, float]:
    """Returns the same share for all variables of a module, see `Layer.active_shares`."""
    return dict.fromkeys(module.named_variables().values(), share)


def importance_of_tokens(call: SequenceCall, shape: mtf.Shape) -> mtf.Tensor | None:
    """Returns 1 for tokens and 0 for padding in a shape of groups; None for tokens everywhere."""
    return None if call.nonpadding is None else mtf.reshape(call.nonpadding, shape)


def _level_metrics(routing: Routing, importance: mtf.Tensor | None) -> dict[str, Metric]:
    outer = [dim for dim in routing.batch if dim.name == _OUTER_EXPERTS]
    counts = mtf.reduce_sum(routing.counts, output_shape=[*outer, routing.experts])
    counts = mtf.reshape(mtf.anonymize(counts), [_experts_of_level(counts.shape.size)])
    dispatched = routing.experts_per_token()
    selected = mtf.add_n([choice.selected for choice in routing.choices])
    minus_entropy = mtf.reduce_sum(
        routing.gates * mtf.log(routing.gates + 1e-9), output_shape=dispatched.shape
    )
    nonpadding = _nonpadding(dispatched, importance)
    # A batch of padding alone, which completes an evaluation, has no load.
    any_token = mtf.minimum(mtf.reduce_sum(nonpadding), 1.0)
    return {
        "load": Metric(counts, mtf.reduce_sum(counts)),
        "dropped": Metric(mtf.reduce_sum(selected - dispatched), mtf.reduce_sum(selected)),
        "entropy": Metric(
            mtf.negative(mtf.reduce_sum(minus_entropy * nonpadding)), mtf.reduce_sum(nonpadding)
        ),
        "balance_loss": Metric(routing.balance_loss * any_token, any_token),
    }


def _experts_per_token(routing: TokenRouting, importance: mtf.Tensor | None) -> Metric:
    number, dim = routing.experts_per_token(), _EXPERTS_PER_TOKEN
    nonpadding = _nonpadding(number, importance)
    column = mtf.to_int32(mtf.minimum(number + 0.5, float(dim.size - 1)))
    counts = mtf.einsum([mtf.one_hot(column, dim), nonpadding], [dim])
    return Metric(counts, mtf.reduce_sum(nonpadding))


def _experts_of_level(number: int) -> mtf.Dimension:
    return mtf.Dimension("experts_of_level", number)


def _nonpadding(like: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    if importance is None:
        return mtf.ones_like(like)
    return mtf.to_float(mtf.greater(importance, 0.0))


def _map_chunks(
    fn: Callable[[mtf.Tensor], mtf.Tensor], x: mtf.Tensor, output_dim: mtf.Dimension, tokens: int
) -> mtf.Tensor:
    """Returns fn(x) in chunks of about `tokens` tokens; positions must not depend on each other."""
    *batch, length, d_model = x.shape.dims
    positions = max(1, tokens // mtf.Shape(batch).size)
    number = -(-length.size // positions)
    if number == 1:
        return fn(x)
    # Under names without a layout rule.
    chunks, chunk = mtf.Dimension("chunks", number), mtf.Dimension("chunk_length", positions)
    padded = mtf.Dimension("chunks_length", number * positions)
    x = mtf.rename_dimension(x, length.name, padded.name)
    x = mtf.pad(x, [0, padded.size - length.size], padded.name)
    x = mtf.replace_dimensions(x, padded, [chunks, chunk])

    def advance(i: mtf.Tensor, y: mtf.Tensor) -> list[mtf.Tensor]:
        return [i + 1, mtf.write_position(y, fn(mtf.gather(x, i, chunks)), chunks, i)]

    zeros = mtf.zeros(x.mesh, (x.shape - d_model) + output_dim, x.dtype)
    first = [mtf.constant(x.mesh, 0, dtype=tf.int32), zeros]
    _, y = mtf.while_loop(lambda i, _: mtf.less(i, number), advance, first, rounds=number)
    y = mtf.slice(mtf.replace_dimensions(y, [chunks, chunk], padded), 0, length.size, padded.name)
    return mtf.rename_dimension(y, padded.name, length.name)
