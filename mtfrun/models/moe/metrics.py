"""Metrics of a routing: load, dropped tokens, entropy, as sums and weights that add up."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import Metric
from mtfrun.models.moe.routing import Routing

# Tokens by their number of experts: 0, 1, 2, 3, or 4 and more.
EXPERTS_PER_TOKEN = mtf.Dimension("experts_per_token", 5)
# The experts of the first of two levels: a batch dimension of the second level's routing.
_OUTER_EXPERTS = "expert_x"


def level_shapes(num_experts: int) -> dict[str, mtf.Shape]:
    """Returns the shapes of `level_metrics`."""
    scalar = mtf.Shape()
    return {
        "load": mtf.Shape([_all_experts(num_experts)]),
        "dropped": scalar,
        "entropy": scalar,
        "balance_loss": scalar,
    }


def level_metrics(routing: Routing, importance: mtf.Tensor | None) -> dict[str, Metric]:
    """Returns the metrics of one level; importance: {..., group}, 0 for padding.

    "load" {experts_of_level}: every expert's share of the dispatched tokens. "dropped": the share
    of choices that capacity dropped. "entropy": of a token's gates, in nats. "balance_loss": 1
    where the load is uniform; its means count padding, and on the second of two levels empty slots
    and second choices, so that it is smaller there.
    """
    outer = [dim for dim in routing.batch if dim.name == _OUTER_EXPERTS]
    counts = mtf.reduce_sum(routing.counts, output_shape=[*outer, routing.experts])
    experts = _all_experts(counts.shape.size)
    counts = mtf.reshape(mtf.anonymize(counts), [experts])
    dispatched = routing.experts_per_token()
    selected = mtf.add_n([choice.selected for choice in routing.choices])
    minus_entropy = mtf.reduce_sum(
        routing.gates * mtf.log(routing.gates + 1e-9), output_shape=dispatched.shape
    )
    nonpadding = _nonpadding(dispatched, importance)
    # A batch of padding alone, which completes an evaluation, has no load.
    any_token = mtf.minimum(mtf.reduce_sum(nonpadding), 1.0)
    means = {
        "load": Metric(counts, mtf.reduce_sum(counts)),
        "dropped": Metric(mtf.reduce_sum(selected - dispatched), mtf.reduce_sum(selected)),
        "entropy": Metric(
            mtf.negative(mtf.reduce_sum(minus_entropy * nonpadding)), mtf.reduce_sum(nonpadding)
        ),
        "balance_loss": Metric(routing.balance_loss * any_token, any_token),
    }
    return {name: _without_gradient(mean) for name, mean in means.items()}


def experts_per_token_metric(
    experts_per_token: mtf.Tensor, importance: mtf.Tensor | None
) -> Metric:
    """Returns the shares {experts_per_token} of tokens; importance: {...}, 0 for padding."""
    nonpadding = _nonpadding(experts_per_token, importance)
    column = mtf.to_int32(mtf.minimum(experts_per_token + 0.5, float(EXPERTS_PER_TOKEN.size - 1)))
    counts = mtf.einsum([mtf.one_hot(column, EXPERTS_PER_TOKEN), nonpadding], [EXPERTS_PER_TOKEN])
    return _without_gradient(Metric(counts, mtf.reduce_sum(nonpadding)))


def _all_experts(num_experts: int) -> mtf.Dimension:
    return mtf.Dimension("experts_of_level", num_experts)


def _nonpadding(like: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    if importance is None:
        return mtf.ones_like(like)
    return mtf.to_float(mtf.greater(importance, 0.0))


def _without_gradient(mean: Metric) -> Metric:
    return Metric(mtf.stop_gradient(mean.total), mtf.stop_gradient(mean.weight))
