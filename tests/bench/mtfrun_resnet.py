"""The subject: the same training step of mtfrun's layers, through its training loop."""

from __future__ import annotations

import argparse

import numpy as np

from tests.bench.without_keras import tf

# isort: split
from mtfrun import mtf, optim
from mtfrun.models.resnet import Backbone, ResNet
from mtfrun.training import TrainState, train_steps_function
from tests.bench.resnet import CLASSES, CONFIGS, LEARNING_RATE, batch, parameters
from tests.bench.worker import Step, serve

LAYOUT = "batch:data;filters:model"


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    model = ResNet(
        mesh,
        CLASSES,
        mtf.convert_to_shape(f"rows:{config.size};cols:{config.size};channels:3"),
        backbone=Backbone(stage_sizes=config.num_blocks, widths=config.widths),
        dtypes=mtf.DTypePolicy(activation=arguments.activation),
    )
    state = TrainState(model, optim.Sgd(learning_rate=LEARNING_RATE), mesh)
    state.initialize()
    weights = parameters(config)
    assert weights.keys() == state.trainable.keys(), weights.keys() ^ state.trainable.keys()
    for path, variable in state.trainable.items():
        value = weights[path].reshape(variable.shape.to_integer_list)
        mtf.assign(variable, mtf.import_tf_tensor(mesh, value, variable.shape))
    images, labels = batch(config)
    steps, batch_dim = mtf.Dimension("steps", 1), mtf.Dimension("batch", config.batch)
    image = zip(("rows", "cols", "channels"), images.shape[1:], strict=True)
    one = mtf.constant(mesh, 1, dtype=tf.int32)

    def feature(value: np.ndarray, *dims: tuple[str, int]) -> mtf.Tensor:
        return mtf.import_tf_tensor(mesh, value[np.newaxis], mtf.Shape([steps, batch_dim, *dims]))

    features = {
        "images": feature(images, *image),
        "labels": feature(labels),
        "weights": feature(np.ones_like(labels)),
    }
    train_steps = train_steps_function(state)

    def step() -> float:
        loss = mtf.to_numpy(train_steps(features, one).metrics["loss"])
        return float(loss.total[0] / loss.weight[0])

    return step


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="resnet20", choices=CONFIGS)
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--activation", default="float32")
    serve(setup, parser)
