"""The reference: the same training step hand-written in TensorFlow, with its fused batch norm."""

from __future__ import annotations

import argparse

import tensorflow as tf

from tests.bench.resnet import CONFIGS, LEARNING_RATE, ResNetConfig, batch, logits, parameters
from tests.bench.worker import Step, serve

MOMENTUM = 0.9
EPSILON = 1e-5


class _Network:
    """Batch norms update the moving averages that evaluation would use."""

    def __init__(self, config: ResNetConfig, dtype: tf.DType) -> None:
        self._config, self._dtype = config, dtype
        self.weights = {path: tf.Variable(w) for path, w in parameters(config).items()}
        self._averages = {
            path: (tf.Variable(tf.zeros_like(w)), tf.Variable(tf.ones_like(w)))
            for path, w in self.weights.items()
            if path.endswith("/scale")
        }

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [batch, classes] float32."""
        x = tf.cast(x, self._dtype)
        return logits(x, self._config, self._convolution, tf.nn.relu, self._softmax)

    def _convolution(self, x: tf.Tensor, path: str, stride: int) -> tf.Tensor:
        kernel = tf.cast(self.weights[f"{path}/convolution/kernel"], self._dtype)
        margin = kernel.shape[0] // 2
        if margin == 0:
            # TensorFlow's own gradient of a strided 1x1 convolution crashes on some CPUs.
            x = tf.nn.conv2d(x[:, ::stride, ::stride], kernel, 1, "SAME")
        elif stride == 1:
            x = tf.nn.conv2d(x, kernel, 1, "SAME")
        else:  # as in the paper's own code, padding of half a filter on both sides
            padding = [[0, 0], [margin, margin], [margin, margin], [0, 0]]
            x = tf.nn.conv2d(tf.pad(x, padding), kernel, stride, "VALID")
        scale = f"{path}/norm/scale"
        result = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.weights[scale],
            offset=self.weights[f"{path}/norm/bias"],
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=EPSILON,
            is_training=True,
        )
        for average, new in zip(
            self._averages[scale], (result.batch_mean, result.batch_variance), strict=True
        ):
            average.assign(MOMENTUM * average + (1.0 - MOMENTUM) * new)
        return result.y

    def _softmax(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.reduce_mean(tf.cast(x, tf.float32), [1, 2])
        return tf.matmul(x, self.weights["softmax/kernel"]) + self.weights["softmax/bias"]


def setup(arguments: argparse.Namespace) -> Step:
    config = CONFIGS[arguments.config]
    network = _Network(config, tf.as_dtype(arguments.activation))

    @tf.function  # type: ignore[untyped-decorator]
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, network.logits(images))
            )
        gradients = tape.gradient(loss, network.weights)
        for path, variable in network.weights.items():
            variable.assign_sub(LEARNING_RATE * gradients[path])
        return loss

    images, labels = (tf.constant(x) for x in batch(config))
    return lambda: float(step(images, labels))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default="resnet20", choices=CONFIGS)
    parser.add_argument("--activation", default="float32")
    serve(setup, parser)
