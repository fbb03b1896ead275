"""The subject: the same training step of mtfrun, as its training loop runs it."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.without_keras import tf

# isort: split
from mtfrun import mtf, optim
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.training import TrainState, train_steps_function
from tests.bench.train import CONFIGS, Sizes, batch
from tests.bench.worker import Step, serve

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.Sgd(learning_rate=0.1),
    "adafactor": optim.Adafactor,
    "adam": lambda: optim.Adam(learning_rate=1e-3),
}


def language_model(
    mesh: mtf.Mesh,
    config: Sizes,
    length: int,
    *,
    activation: str = "float32",
    block_length: int | None = None,
    tied_softmax: bool = False,
    **settings: Any,
) -> DecoderOnly:
    """Returns the decoder-only Transformer of a configuration; the settings are `Stack`'s."""
    heads = AttentionHeads(config.num_heads, d_kv=config.d_kv)
    attention = functools.partial(SelfAttention, heads=heads, block_length=block_length)
    feed_forward = functools.partial(FeedForward, d_ff=config.d_ff)
    return DecoderOnly(
        mesh,
        config.vocabulary,
        embedding=TokenEmbedding(config.d_model, length, tied_softmax=tied_softmax),
        stack=functools.partial(
            Stack, num_layers=config.num_layers, layers=[attention, feed_forward], **settings
        ),
        dtypes=mtf.DTypePolicy(activation=activation),
    )


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    names = list(filter(None, arguments.rematerialise.split(",")))
    model = language_model(
        mesh,
        config,
        config.length,
        activation=arguments.activation,
        rematerialise=arguments.rematerialise == "all" or names or False,
        scan_blocks=arguments.scan_blocks,
    )
    state = TrainState(model, OPTIMIZERS[arguments.optimizer](), mesh)
    state.initialize()
    _, targets = batch(config)
    shape = mtf.Shape([("steps", 1), ("batch", config.batch), ("length", config.length)])
    features = {"targets": mtf.import_tf_tensor(mesh, targets[np.newaxis], shape)}
    one = mtf.constant(mesh, 1, dtype=tf.int32)
    train_steps = train_steps_function(state)

    def step() -> float:
        loss = mtf.to_numpy(train_steps(features, one).metrics["loss"])
        return float(loss.total[0] / loss.weight[0])

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--activation", default="float32")
    parser.add_argument("--optimizer", default="sgd", choices=OPTIMIZERS)
    parser.add_argument("--rematerialise", default="", help='"all" or names, "dense,projections"')
    parser.add_argument("--scan_blocks", type=int)
    serve(setup, parser)
