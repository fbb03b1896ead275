"""The subject: the same mixture as mtfrun's layer."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from typing import Any

import numpy as np

import tests.bench.without_keras  # noqa: F401

# isort: split
from mtfrun import mtf
from mtfrun.layers import Collector
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall
from tests.bench.moe import CAPACITY, CONFIGS, LEARNING_RATE, LOSS_COEF, MoeConfig, parameters
from tests.bench.worker import Step, serve
from tests.models.moe.einsum_dispatch import DISPATCHES, dispatching

LAYOUTS = {
    "one level": "batch:data;experts:data;expert_hidden:model",
    "two levels": "batch:data;expert_x:data;outer_batch:model;expert_y:model",
}
DROPLESS = "dropless"
EXPERT_PATHS = {"wi": "experts/wi/factors/0/kernel", "wo": "experts/wo/kernel"}
ONE_LEVEL_PATHS = {**EXPERT_PATHS, "gate": "router/kernel"}
INNER_PATHS = {"gate": "outer_router/kernel", "inner_gate": "inner_router/kernel"}
TWO_LEVEL_PATHS = {**EXPERT_PATHS, **INNER_PATHS}


def chosen_layer(
    mesh: mtf.Mesh, config: MoeConfig, choices: int, *, dropless: bool
) -> tuple[moe.MoE1D | moe.DroplessMoE, dict[str, str]]:
    """As `layer_of`: every token chooses the `choices` best experts, with or without a capacity."""
    d_model = mtf.Dimension("d_model", config.d_model)
    gate = moe.TopK(choices, normalise=choices > 1)
    options: dict[str, Any] = {
        "num_experts": config.expert_x,
        "router": functools.partial(moe.Router, gate=gate),
        "experts": functools.partial(moe.Experts, hidden_size=config.hidden),
        "loss_coef": LOSS_COEF,
    }
    if dropless:
        return moe.DroplessMoE(mesh, d_model, **options), ONE_LEVEL_PATHS
    capacity = moe.Capacity(training=1.25 * choices, group_size=config.group_size)
    return moe.MoE1D(mesh, d_model, capacity=capacity, **options), ONE_LEVEL_PATHS


def layer_of(mesh: mtf.Mesh, config: MoeConfig) -> tuple[moe.MoE1D | moe.MoE2D, dict[str, str]]:
    """Returns the layer, and the paths of its variables by the names of the parameters."""
    d_model = mtf.Dimension("d_model", config.d_model)
    router = functools.partial(moe.Router, gate=moe.Top2(second_policy_training=moe.All()))
    options: dict[str, Any] = {
        "experts": functools.partial(moe.Experts, hidden_size=config.hidden),
        "capacity": dataclasses.replace(CAPACITY, group_size=config.group_size),
        "loss_coef": LOSS_COEF,
    }
    if not config.expert_y:
        one = moe.MoE1D(mesh, d_model, num_experts=config.expert_x, router=router, **options)
        return one, ONE_LEVEL_PATHS
    experts, routers = (config.expert_x, config.expert_y), (router, router)
    two = moe.MoE2D(mesh, d_model, num_experts=experts, routers=routers, **options)
    return two, TWO_LEVEL_PATHS


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    if arguments.group_size:
        config = dataclasses.replace(config, group_size=arguments.group_size)
    mesh = mtf.Mesh(arguments.mesh, LAYOUTS["two levels" if config.expert_y else "one level"])
    layer: moe.MoE1D | moe.MoE2D | moe.DroplessMoE
    if arguments.choices:
        dropless = arguments.dispatch == DROPLESS
        layer, paths = chosen_layer(mesh, config, arguments.choices, dropless=dropless)
    else:
        layer, paths = layer_of(mesh, config)
    mtf.initialize(layer)
    values = parameters(config)
    if arguments.imbalanced:
        # All tokens choose expert 0; where they have a second choice, it is expert 1.
        values["x"] = np.abs(values["x"])
        values["gate"] = np.zeros_like(values["gate"])
        values["gate"][:, 0] = 1.0
    variables = layer.named_variables()
    for name, path in paths.items():
        value = mtf.import_tf_tensor(mesh, values[name], variables[path].shape)
        mtf.assign(variables[path], value)
    # On two axes the tokens are split over both.
    axis = mesh.shape.get_dim_by_name("model").size if config.expert_y else 1
    batch = [mtf.Dimension("batch", config.batch // axis), mtf.Dimension("length", config.length)]
    outer = [mtf.Dimension("outer_batch", axis)] if axis > 1 else []
    shape = mtf.Shape([*outer, *batch, mtf.Dimension("d_model", config.d_model)])
    x = values["x"].reshape(shape.to_integer_list)
    tokens = mtf.Variable(mesh, shape, lambda shape, rng: np.asarray(x))
    tokens.initialize(0, "x")
    variables["x"] = tokens

    def step() -> mtf.Tensor:
        def loss() -> mtf.Tensor:
            collector = Collector()
            call = SequenceCall(training=True, key=mtf.random_key(0), collector=collector)
            y = layer(mtf.read_variable(tokens), call)
            return mtf.reduce_mean(mtf.square(y)) + collector.total_loss()

        value, gradients = mtf.value_and_gradients(loss, variables)
        for path, variable in variables.items():
            gradient = gradients[path]
            assert gradient is not None
            mtf.assign_sub(variable, LEARNING_RATE * gradient)
        return value

    compiled = mtf.function(step)

    def run() -> float:
        with dispatching(arguments.dispatch):  # the first call traces
            return float(mtf.to_numpy(compiled()))

    return run


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="2d_4x4_g256", choices=CONFIGS)
    parser.add_argument("--group_size", type=int, help="instead of the configuration's")
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--dispatch", default="gather", choices=[*DISPATCHES, DROPLESS])
    parser.add_argument("--choices", type=int, help="experts a token chooses, see chosen_layer")
    parser.add_argument("--imbalanced", action="store_true", help="all tokens to the same experts")
    serve(setup, parser)
