"""What a routing does, as sums and weights that add up over batches."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers import Metric
from mtfrun.models.moe.routing import Routing

# Tokens are counted by how many experts they visit: 0, 1, 2, 3, or 4 and more.
VISITS = mtf.Dimension("visits", 5)
# What the second of two levels calls the experts of the first.
_OUTER_EXPERTS = "expert_x"


def level_shapes(experts: int) -> dict[str, mtf.Shape]:
    """Returns the shapes of `level_metrics`."""
    scalar = mtf.Shape()
    return {
        "load": mtf.Shape([_all_experts(experts)]),
        "dropped": scalar,
        "entropy": scalar,
        "balance_loss": scalar,
    }


def level_metrics(routing: Routing, importance: mtf.Tensor | None) -> dict[str, Metric]:
    """Returns the measurements of one level.

    "load" {experts_of_level}: every expert's share of what all experts process. "dropped": the
    share of choices that found the expert full. "entropy": of a token's gates, in nats.
    "balance_loss": 1 where all experts are used alike; its means count padding, and on the second
    of two levels empty slots and second choices, so that it is smaller there.

    Args:
      routing: of a gate.
      importance: {..., group}, 0 where there is no token; None for tokens everywhere.
    """
    outer = [dim for dim in routing.batch if dim.name == _OUTER_EXPERTS]
    counts = mtf.reduce_sum(routing.counts, output_shape=[*outer, routing.experts])
    experts = _all_experts(counts.shape.size)
    counts = mtf.reshape(mtf.anonymize(counts), [experts])
    kept = mtf.add_n([choice.kept for choice in routing.choices])
    wanted = mtf.add_n([choice.wanted for choice in routing.choices])
    minus_entropy = mtf.reduce_sum(
        routing.gates * mtf.log(routing.gates + 1e-9), output_shape=kept.shape
    )
    present = _present(kept, importance)
    # A batch of padding alone, which fills up an evaluation, has no balance.
    any_token = mtf.minimum(mtf.reduce_sum(present), 1.0)
    means = {
        "load": Metric(counts, mtf.reduce_sum(counts)),
        "dropped": Metric(mtf.reduce_sum(wanted - kept), mtf.reduce_sum(wanted)),
        "entropy": Metric(
            mtf.negative(mtf.reduce_sum(minus_entropy * present)), mtf.reduce_sum(present)
        ),
        "balance_loss": Metric(routing.balance_loss * any_token, any_token),
    }
    return {name: _without_gradient(mean) for name, mean in means.items()}


def visits_metric(visits: mtf.Tensor, importance: mtf.Tensor | None) -> Metric:
    """Returns the shares {visits} of tokens by the number of experts that they visit.

    Args:
      visits: {...} float32, how many experts a token visits.
      importance: {...}, 0 where there is no token; None for tokens everywhere.
    """
    present = _present(visits, importance)
    number = mtf.to_int32(mtf.minimum(visits + 0.5, float(VISITS.size - 1)))
    shares = mtf.einsum([mtf.one_hot(number, VISITS), present], [VISITS])
    return _without_gradient(Metric(shares, mtf.reduce_sum(present)))


def _all_experts(number: int) -> mtf.Dimension:
    return mtf.Dimension("experts_of_level", number)


def _present(like: mtf.Tensor, importance: mtf.Tensor | None) -> mtf.Tensor:
    if importance is None:
        return mtf.ones_like(like)
    return mtf.to_float(mtf.greater(importance, 0.0))


def _without_gradient(mean: Metric) -> Metric:
    return Metric(mtf.stop_gradient(mean.total), mtf.stop_gradient(mean.weight))
