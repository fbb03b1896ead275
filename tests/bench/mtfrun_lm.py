"""The subject: the same training step of mtfrun, as its training loop runs it."""

import time

STARTED = time.time()

import argparse  # noqa: E402
import functools  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402

import numpy as np  # noqa: E402

from tests.bench.without_keras import tf  # noqa: E402

# isort: split
from mtfrun import mtf, optim  # noqa: E402
from mtfrun.models.transformer import (  # noqa: E402
    AttentionHeads,
    DecoderOnly,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.training import TrainState, train_steps_function  # noqa: E402
from tests.bench.lm_configs import CONFIGS, LmConfig, batch  # noqa: E402
from tests.bench.worker import Step, serve  # noqa: E402

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
OPTIMIZERS: dict[str, Callable[[], optim.Optimizer]] = {
    "sgd": lambda: optim.Sgd(learning_rate=0.1),
    "adafactor": optim.Adafactor,
    "adam": lambda: optim.Adam(learning_rate=1e-3),
}


def language_model(
    mesh: mtf.Mesh,
    config: LmConfig,
    activation: str,
    *,
    rematerialise: bool | Sequence[str] = False,
    scan_blocks: int | None = None,
) -> DecoderOnly:
    """Returns the decoder-only Transformer of a configuration; the settings are `Stack`'s."""
    attention = functools.partial(
        SelfAttention, heads=AttentionHeads(config.num_heads, d_kv=config.d_kv)
    )
    attention.__name__ = "SelfAttention"  # type: ignore[attr-defined]
    feed_forward = functools.partial(FeedForward, d_ff=config.d_ff)
    feed_forward.__name__ = "FeedForward"  # type: ignore[attr-defined]
    return DecoderOnly(
        mesh,
        config.vocabulary,
        embedding=TokenEmbedding(config.d_model, config.length, tied_softmax=False),
        stack=functools.partial(
            Stack,
            num_layers=config.num_layers,
            layers=[attention, feed_forward],
            rematerialise=rematerialise,
            scan_blocks=scan_blocks,
        ),
        dtypes=mtf.DTypePolicy(activation=activation),
    )


def setup(arguments: argparse.Namespace) -> Step:
    """Returns a step, which blocks until its loss is computed."""
    config = CONFIGS[arguments.config]
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    names = list(filter(None, arguments.rematerialise.split(",")))
    model = language_model(
        mesh,
        config,
        arguments.activation,
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
    parsed = parser.parse_args()
    serve(lambda: setup(parsed), STARTED)
