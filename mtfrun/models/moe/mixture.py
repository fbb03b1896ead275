"""The base class of mixtures of experts as sublayers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.moe.capacity import Capacity
from mtfrun.models.moe.dispatch import Dispatch
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.metrics import (
    EXPERTS_PER_TOKEN,
    experts_per_token_metric,
    level_metrics,
    level_shapes,
)
from mtfrun.models.moe.routing import Routing
from mtfrun.models.moe.two_level_all_to_all import TwoLevels
from mtfrun.models.transformer.sublayer import SequenceCall, Sublayer


class Mixture(Sublayer):
    """A mixture of experts of one or more levels; subclasses make the experts and route tokens.

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
        self._mesh = mesh
        self._d_model = d_model
        self._loss_coef = loss_coef
        self._experts_of_levels = experts_of_levels

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The metrics of every level, and the tokens by their number of experts."""
        shapes = {
            f"{level}/{name}": shape
            for level, experts in self._experts_of_levels.items()
            for name, shape in level_shapes(experts).items()
        }
        return {**shapes, "experts_per_token": mtf.Shape([EXPERTS_PER_TOKEN])}

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return (x.shape - self._d_model) + self.experts.output_dim

    def _report(
        self,
        levels: Mapping[str, tuple[Routing, mtf.Tensor | None]],
        mixture: Routing | TwoLevels,
        call: SequenceCall,
    ) -> None:
        """Adds losses and metrics to the call's collector, and first experts to its recorder.

        `levels`: by name the routing of each level, and the importance of its tokens. `mixture`:
        how all levels together route a token, which is the routing if there is one level.
        """
        if call.collector is not None:
            loss = mtf.add_n([routing.loss for routing, _ in levels.values()])
            call.collector.add_loss(self, self._loss_coef * loss)
            metrics = {
                f"{level}/{name}": metric
                for level, (routing, importance) in levels.items()
                for name, metric in level_metrics(routing, importance).items()
            }
            _, importance = levels["level_1"]
            per_token = experts_per_token_metric(mixture.experts_per_token(), importance)
            call.collector.add_metrics(self, {**metrics, "experts_per_token": per_token})
        if call.recorder is not None:
            *outer, _ = (routing for routing, _ in levels.values())
            for level, routed in zip(levels, [*outer, mixture], strict=True):
                call.recorder.add_experts(self, level, routed.first_expert())


class CapacityMixture(Mixture):
    """A mixture whose experts have a limited number of slots."""

    _capacity: Capacity
    _dispatch: Dispatch

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
