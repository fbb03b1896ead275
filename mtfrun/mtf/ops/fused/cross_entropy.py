"""The cross entropy of class ids, in which a language model spends much of its time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from mtfrun.mtf.function import is_traced_for_xla
from mtfrun.mtf.gradients import custom_gradient
from mtfrun.mtf.ops.constants import one_hot, range
from mtfrun.mtf.ops.control_flow.control import compute_after
from mtfrun.mtf.ops.elementwise import exp, log
from mtfrun.mtf.ops.indexing import gather
from mtfrun.mtf.ops.reductions import reduce_max, reduce_sum, softmax
from mtfrun.mtf.ops.structure import reshape
from mtfrun.mtf.shape import Dimension, DimensionLike, convert_to_dimension
from mtfrun.mtf.tensor import Tensor, TensorLike, as_tensor, reorder


class CrossEntropy(NamedTuple):
    """The cross entropy with its by-products; all have the targets' shape.

    `loss` is logsumexp(logits) - logits[targets], which is -log softmax(logits)[targets]; `margin`,
    without gradient, is the largest logit minus the target's: 0 where the target is most likely.
    """

    loss: Tensor
    logsumexp: Tensor
    margin: Tensor


def sparse_softmax_cross_entropy(
    logits: TensorLike, targets: TensorLike, vocab_dim: DimensionLike
) -> Tensor:
    """Returns -log softmax(logits)[targets]; see `sparse_cross_entropy`."""
    return sparse_cross_entropy(logits, targets, vocab_dim, logsumexp_gradient=False).loss


def sparse_cross_entropy(
    logits: TensorLike,
    targets: TensorLike,
    vocab_dim: DimensionLike,
    *,
    logsumexp_gradient: bool = True,
) -> CrossEntropy:
    """Returns the cross entropy of class ids, with its by-products.

    logits: {..., vocab_dim} float32; targets: {...} integer ids from 0. Without
    `logsumexp_gradient`, for losses that do not depend on `logsumexp`, the backward pass saves one
    pass over the logits.

    Exact, and on CPU in a third of the time of TensorFlow's fused operation: logsumexp(logits) =
    max(logits) - log(max(softmax(logits))). The logarithm is safe: the largest probability is at
    least 1 / vocab_dim.size. Where classes are split, every device sends three numbers a target.
    """
    logits, targets, vocab = as_tensor(logits), as_tensor(targets), convert_to_dimension(vocab_dim)
    logits.shape.index(vocab)
    ordered = reorder(logits, targets.shape + vocab)

    def backward(
        inputs: Sequence[Tensor], outputs: Sequence[Tensor], grads: Sequence[Tensor]
    ) -> list[Tensor | None]:
        gradient = _softmax_minus_one_hot(inputs, outputs) * grads[0]
        if logsumexp_gradient:
            gradient = gradient + outputs[-1] * grads[1]
        return [reshape(gradient, inputs[0].shape), None]

    loss, logsumexp, margin, _ = custom_gradient(_forward, backward, [ordered, targets])
    return CrossEntropy(loss, logsumexp, margin)


def _forward(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the fields of a CrossEntropy, and the softmax {..., parts, classes}.

    `parts` are those that `vocab_dim` is split into; without a split there are only classes.
    """
    *parts, classes = logits.mesh.parts_of(logits.shape[-1])
    by_part = reshape(logits, [*targets.shape, *parts, classes])
    part_softmax = softmax(by_part, classes)
    part_largest = reduce_max(by_part, reduced_dim=classes)
    part_logsumexp = part_largest - log(reduce_max(part_softmax, reduced_dim=classes))
    largest = reduce_max(part_largest, output_shape=targets.shape)
    margin = largest - gather(logits, targets, logits.shape[-1])
    # Relative to the largest logit: without cancellation where that is the target's. The sum is
    # between 1 and vocab.size.
    excess = log(reduce_sum(exp(part_logsumexp - largest), output_shape=targets.shape))
    if parts:
        part_softmax = part_softmax * exp(part_logsumexp - (largest + excess))
    return margin + excess, largest + excess, margin, part_softmax


def _softmax_minus_one_hot(inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Tensor:
    """Returns the gradient of the loss with respect to the logits {..., parts, classes}."""
    probabilities = outputs[-1]
    logits, targets = inputs
    *parts, classes = logits.mesh.parts_of(logits.shape[-1])
    if not targets.mesh.is_distributed and not is_traced_for_xla(targets.mesh):
        # In place, after the last other read of the probabilities.
        probabilities = compute_after(outputs[0], probabilities)
        return _minus_one_at(probabilities, targets, classes)
    for part in parts:
        # Counted from the first class of each part; ids of other parts are out of range.
        targets = targets - range(targets.mesh, part, targets.dtype) * classes.size
    return probabilities - one_hot(targets, classes, dtype=probabilities.dtype)


def _minus_one_at(probabilities: Tensor, targets: Tensor, classes: Dimension) -> Tensor:
    """Returns probabilities {..., classes} minus a one-hot, in place: as large as all logits."""
    rows = tf.reshape(probabilities.value, [-1, classes.size])
    ids = tf.reshape(targets.value, [-1])
    is_class = tf.logical_and(ids >= 0, ids < classes.size)
    inside = tf.where(is_class, ids, tf.zeros_like(ids))
    positions = tf.stack([tf.range(targets.shape.size, dtype=ids.dtype), inside], axis=1)
    rows = tf.tensor_scatter_nd_sub(rows, positions, tf.cast(is_class, rows.dtype))
    return Tensor(
        probabilities.mesh,
        tf.reshape(rows, probabilities.shape.to_integer_list),
        probabilities.shape,
    )
