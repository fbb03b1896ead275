"""Small mixtures of experts, inputs for them, and how they are run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.layers import Collector
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall, Sublayer
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.models.moe.einsum_dispatch import dispatching

D_MODEL = mtf.Dimension("d_model", 6)
BATCH, LENGTH = mtf.Dimension("batch", 8), mtf.Dimension("length", 12)
# Experts on the axis of the batch; with two levels, on both axes.
LAYOUT = (
    "batch:data;experts:data;expert_x:data;outer_batch:model;expert_y:model;heads:model;vocab:model"
)

EXPERTS = functools.partial(moe.Experts, hidden_size=10)
CAPACITY = moe.Capacity(group_size=12)
# A deterministic second choice: with the default, noise decides.
TOP_2 = moe.Top2(second_policy_training=moe.Threshold(0.1))
GATES: dict[str, moe.Gate] = {
    "top_2": TOP_2,
    "top_2_v1": zoo.Top2V1(second_policy_training=moe.All(), second_expert_loss=True),
    "truncated_top_2": zoo.TruncatedTop2(),
    "switch": moe.Switch(z_loss=0.01),
    "no_token_left_behind": zoo.NoTokenLeftBehind(top_k=2),
    "batch_prioritized": zoo.BatchPrioritized(),
    "expert_choice": moe.ExpertChoice(),
    "top_n": zoo.TopN(num_experts=3),
    "top_k": moe.TopK(z_loss=0.01),
    "top_k_sigmoid": moe.TopK(2, sigmoid=True, scale=2.5),
    "top_2_random": moe.Top2(),
    "switch_sampled": moe.Switch(policy_training=moe.Sample(0.5)),
}


class Result(NamedTuple):
    """The results of a layer, as numpy.

    Attributes:
      output: {batch, length, d_model}.
      loss: a number.
      gradients: of the output times fixed numbers plus the loss: by the path of a variable, if it
        is trained, and "x".
      metrics: totals by name.
    """

    output: np.ndarray
    loss: np.ndarray
    gradients: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]


def assert_same_result(actual: Result, expected: Result) -> None:
    """Raises unless outputs and gradients agree."""
    assert_close(actual.output, expected.output, FLOAT32_MODEL_TOLERANCE)
    assert actual.gradients.keys() == expected.gradients.keys()
    for path, gradient in expected.gradients.items():
        assert_close(actual.gradients[path], gradient, FLOAT32_MODEL_TOLERANCE)


def inputs() -> np.ndarray:
    """Returns random vectors {batch, length, d_model}."""
    shape = [BATCH.size, LENGTH.size, D_MODEL.size]
    return np.random.default_rng(4).normal(size=shape).astype(np.float32)


def padding_mask() -> np.ndarray:
    """Returns {batch, length}: 1 for tokens, 0 for padding, of which every row has its own part."""
    lengths = 4 + np.arange(BATCH.size)
    return (np.arange(LENGTH.size) < lengths[:, np.newaxis]).astype(np.float32)


def one_level(mesh: mtf.Mesh, *, gate: moe.Gate = TOP_2, **options: Any) -> moe.MoE1D:
    """Returns a mixture of four experts."""
    router = functools.partial(moe.Router, gate=gate)
    defaults = {"num_experts": 4, "router": router, "experts": EXPERTS, "capacity": CAPACITY}
    return moe.MoE1D(mesh, D_MODEL, **{**defaults, **options})


def two_levels(mesh: mtf.Mesh, *, gate: moe.Gate = TOP_2, **options: Any) -> moe.MoE2D:
    """Returns a mixture of 4 x 2 experts."""
    router = functools.partial(moe.Router, gate=gate)
    defaults = {
        "num_experts": (4, 2),
        "routers": (router, router),
        "experts": EXPERTS,
        "capacity": CAPACITY,
    }
    return moe.MoE2D(mesh, D_MODEL, **{**defaults, **options})


def dropless(mesh: mtf.Mesh, *, gate: moe.Gate = TOP_2, **options: Any) -> moe.DroplessMoE:
    """Returns a mixture of four experts without a capacity."""
    router = functools.partial(moe.Router, gate=gate)
    defaults = {"num_experts": 4, "router": router, "experts": EXPERTS}
    return moe.DroplessMoE(mesh, D_MODEL, **{**defaults, **options})


def run(
    make: Callable[[mtf.Mesh], Sublayer],
    mesh: mtf.Mesh,
    *,
    training: bool = True,
    with_padding: bool = False,
    values: dict[str, np.ndarray] | None = None,
    x: np.ndarray | None = None,
) -> Result:
    """Returns what a layer computes for `inputs()`, its variables drawn or set to `values`."""
    layer = make(mesh)
    mtf.initialize(layer, seed=1)
    variables = layer.named_variables()
    for path, value in (values or {}).items():
        variable = variables[path]
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))
    x = inputs() if x is None else x
    tensors = {"x": mtf.import_tf_tensor(mesh, x, [BATCH, LENGTH, D_MODEL])}
    if with_padding:
        tensors["nonpadding"] = mtf.import_tf_tensor(mesh, padding_mask(), [BATCH, LENGTH])
    weights = np.random.default_rng(5).normal(size=x.shape).astype(np.float32)
    tensors["weights"] = mtf.import_tf_tensor(mesh, weights, [BATCH, LENGTH, D_MODEL])

    def compute(tensors: dict[str, mtf.Tensor]) -> tuple[Any, ...]:
        collector = Collector()
        key = mtf.random_key(3) if training else None
        call = SequenceCall(training, key, collector, nonpadding=tensors.get("nonpadding"))
        output = layer(tensors["x"], call)
        loss = collector.total_loss()
        sources = {"x": tensors["x"], **variables}
        source_gradients = mtf.gradients(
            [output, loss], list(sources.values()), [tensors["weights"], mtf.ones_like(loss)]
        )
        metrics = {name: mean.total for name, mean in collector.contents.metrics.items()}
        gradients = dict(zip(sources, source_gradients, strict=True))
        for path, variable in variables.items():
            assert (gradients[path] is not None) == variable.is_trained
            if not variable.is_trained:
                del gradients[path]
        return output, loss, gradients, metrics

    return Result(*mtf.to_numpy(mtf.function(compute)(tensors)))


@functools.cache
def cached_run(kind: str, gate: str, dispatch: str, mesh_shape: str, layout: str) -> Result:
    """Returns `run` of a layer in training, with padding; the arguments are hashable."""
    make: Callable[..., Sublayer] = one_level if kind == "one level" else two_levels
    make = functools.partial(make, gate=GATES[gate])
    with dispatching(dispatch):
        return run(make, mtf.Mesh(mesh_shape, layout), with_padding=True)
