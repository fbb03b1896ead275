"""The subject: the same training step of mtfrun's layers, through its training loop."""

from __future__ import annotations

import argparse

import numpy as np

from tests.bench.without_keras import tf

# isort: split
from mtfrun import mtf, optim
from mtfrun.layers import Call, Conv2D, Dense
from mtfrun.models.resnet import (
    Backbone,
    ConvolutionNorm,
    ConvolutionSettings,
    ImageClassifier,
    ImageInput,
    ResNet,
)
from mtfrun.training import TrainState, train_steps_function
from tests.bench.resnet import (
    CLASSES,
    CONFIGS,
    LEARNING_RATE,
    BasicBlocks,
    Bottlenecks,
    batch,
    parameters,
)
from tests.bench.worker import Step, serve

LAYOUT = "batch:data;filters:model"


class WideBottleneck(mtf.Module):
    """relu(shortcut + 1x1, 3x3 to four times the channels, 1x1), the last without a norm."""

    def __init__(
        self,
        mesh: mtf.Mesh,
        inputs: mtf.Dimension,
        outputs: mtf.Dimension,
        dtypes: mtf.DTypePolicy,
        *,
        projects: bool,
    ) -> None:
        super().__init__()
        wide = mtf.Dimension(outputs.name, 4 * outputs.size)
        settings = ConvolutionSettings(mesh, dtypes=dtypes)
        self.projection = None
        if projects:
            self.projection = ConvolutionNorm(settings, inputs, outputs, size=1)
        self.narrow = ConvolutionNorm(settings, inputs, outputs, size=1)
        self.wide = ConvolutionNorm(settings, outputs, wide)
        self.last = Conv2D(mesh, wide, outputs, dtypes, filter_size=(1, 1))

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        shortcut = x if self.projection is None else self.projection(x, call)
        for convolution in (self.narrow, self.wide):
            x = mtf.relu(convolution(x, call))
        return mtf.relu(self.last(x, call) + shortcut)


class BottleneckNetwork(ImageClassifier):
    """The network of `Bottlenecks`, for training."""

    def __init__(
        self, mesh: mtf.Mesh, config: Bottlenecks, image: mtf.Shape, dtypes: mtf.DTypePolicy
    ) -> None:
        super().__init__(CLASSES, ImageInput())
        rows, cols, channels = image.dims
        filters = mtf.Dimension("filters", config.filters[0])
        self.first = ConvolutionNorm(ConvolutionSettings(mesh, dtypes=dtypes), channels, filters)
        self.blocks = []
        for _, _, size, projects in config.blocks():
            outputs = mtf.Dimension("filters", size)
            self.blocks.append(WideBottleneck(mesh, filters, outputs, dtypes, projects=projects))
            filters = outputs
        hidden = mtf.Dimension("hidden", config.hidden)
        self.hidden = Dense(mesh, [rows, cols, filters], [hidden], activation=mtf.relu)
        self.softmax = Dense(mesh, [hidden], [self._classes])

    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        x = mtf.relu(self.first(images, call))
        for block in self.blocks:
            x = block(x, call)
        return self.softmax(self.hidden(x, call), call)


def model_of(
    mesh: mtf.Mesh, config: Bottlenecks | BasicBlocks, activation: str
) -> ResNet | BottleneckNetwork:
    dtypes = mtf.DTypePolicy(activation=activation)
    image = mtf.convert_to_shape(f"rows:{config.size};cols:{config.size};channels:3")
    if isinstance(config, Bottlenecks):
        return BottleneckNetwork(mesh, config, image, dtypes)
    backbone = Backbone(stage_sizes=config.num_blocks, widths=config.widths)
    return ResNet(mesh, CLASSES, image, backbone=backbone, dtypes=dtypes)


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    mesh = mtf.Mesh(arguments.mesh, LAYOUT)
    model = model_of(mesh, config, arguments.activation)
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
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--mesh", default="data:1,model:1")
    parser.add_argument("--activation", default="float32")
    serve(setup, parser)
