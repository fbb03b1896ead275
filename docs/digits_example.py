"""A network that reads digits, on one device or on many: `python docs/digits_example.py`.

It is Mesh TensorFlow's MNIST example, ported: an image may be split into blocks of rows.
"""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from mtfrun import layers, mtf, optim

GLYPHS = """
.###. ..#.. .###. .###. ...#. ##### .###. ##### .###. .###.
#...# .##.. #...# #...# ..##. #.... #.... ....# #...# #...#
#..## ..#.. ....# ....# .#.#. ####. #.... ...#. #...# #...#
#.#.# ..#.. ...#. ..##. #..#. ....# ####. ..#.. .###. .####
##..# ..#.. ..#.. ....# ##### ....# #...# ..#.. #...# ....#
#...# ..#.. .#... #...# ...#. #...# #...# .#... #...# ....#
.###. .###. ##### .###. ...#. .###. .###. .#... .###. .###.
"""

batch = mtf.Dimension("batch", 80)
row_blocks = mtf.Dimension("row_blocks", 2)
rows = mtf.Dimension("rows", 4)
cols = mtf.Dimension("cols", 8)
channels = mtf.Dimension("channels", 1)
filters = mtf.Dimension("filters", 8)
hidden = mtf.Dimension("hidden", 32)
classes = mtf.Dimension("classes", 10)


def digits(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noisy images [count, 8, 8] of shifted digits, and the digits."""
    lines = [line.split() for line in GLYPHS.split("\n") if line]
    glyphs = np.array([[[c == "#" for c in line[d]] for line in lines] for d in range(10)])
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, count, dtype=np.int32)
    images = rng.normal(0.0, 0.1, [count, 8, 8]).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        top, left = rng.integers(0, 2), rng.integers(0, 4)
        image[top : top + 7, left : left + 5] += glyphs[label]
    return images, labels


class DigitsNetwork(mtf.Module):
    """A convolution, a hidden layer, a softmax. Variables are made in constructors."""

    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.convolution = layers.Conv2D(
            mesh, channels, filters, filter_size=(3, 3), blocks=[row_blocks]
        )
        pooled = [row_blocks, mtf.Dimension("rows", 2), mtf.Dimension("cols", 4), filters]
        self.hidden = layers.Dense(mesh, pooled, [hidden], activation=mtf.relu)
        self.kernel = mtf.Variable(mesh, [hidden, classes], mtf.initializers.RandomNormal(0.1))

    def __call__(self, images: mtf.Tensor, call: layers.Call) -> mtf.Tensor:
        """Returns logits {batch, classes} of images {batch, row_blocks, rows, cols, channels}."""
        x = mtf.relu(self.convolution(images, call))
        x = mtf.max_pool2d(x, ksize=(2, 2))
        return mtf.einsum([self.hidden(x, call), self.kernel], output_shape=[batch, classes])


def train_and_test(mesh: mtf.Mesh, steps: int = 150) -> tuple[list[float], float]:
    """Returns the loss of every step, and the accuracy on new images."""
    network = DigitsNetwork(mesh)
    variables = network.named_variables()
    optimizer = optim.Adam(learning_rate=0.01)
    optimizer.init(variables)
    step = mtf.Variable(mesh, [], dtype=tf.int64)
    mtf.initialize([network, optimizer.named_slots(), step], seed=0)

    def train_step(images: mtf.Tensor, labels: mtf.Tensor) -> mtf.Tensor:
        def loss() -> mtf.Tensor:
            targets = mtf.one_hot(labels, classes)
            logits = network(images, layers.Call(training=True))
            return mtf.reduce_mean(
                layers.softmax_cross_entropy_with_logits(logits, targets, classes)
            )

        value, gradients = mtf.value_and_gradients(loss, variables)
        now = mtf.read_variable(step)
        for variable, new_value in optimizer.update(gradients, now).items():
            mtf.assign(variable, new_value)
        mtf.assign(step, now + 1)
        return value

    def count_right(images: mtf.Tensor, labels: mtf.Tensor) -> mtf.Tensor:
        right = mtf.equal(mtf.argmax(network(images, layers.Call()), classes), labels)
        return mtf.reduce_mean(mtf.to_float(right))

    def batch_of(seed: int) -> list[mtf.Tensor]:
        images, labels = digits(batch.size, seed)
        shape = mtf.Shape([batch, row_blocks, rows, cols, channels])
        return [
            mtf.import_tf_tensor(mesh, images.reshape(shape.to_integer_list), shape),
            mtf.import_tf_tensor(mesh, labels, [batch]),
        ]

    train_step, count_right = mtf.function(train_step), mtf.function(count_right)
    losses = [float(mtf.to_numpy(train_step(*batch_of(seed)))) for seed in range(steps)]
    accuracies = [mtf.to_numpy(count_right(*batch_of(seed))) for seed in range(steps, steps + 5)]
    return losses, float(np.mean(accuracies))


def main(mesh_shape: str = "data:1,model:1", layout: str = "") -> None:
    """Trains on a mesh and prints."""
    losses, accuracy = train_and_test(mtf.Mesh(mesh_shape, layout))
    print(f"loss {losses[0]:.4f} -> {losses[-1]:.4f}, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
