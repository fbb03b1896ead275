"""Cross entropies per position, in float32."""

from __future__ import annotations

import tensorflow as tf

from mtfrun import mtf


def softmax_cross_entropy_with_logits(
    logits: mtf.TensorLike, targets: mtf.TensorLike, vocab_dim: mtf.Dimension, z_loss: float = 0.0
) -> mtf.Tensor:
    """Returns -sum(targets * log_softmax(logits)) + z_loss * logsumexp(logits)**2, float32.

    logits: {..., vocab_dim}; targets: probabilities {..., vocab_dim}. The z-loss keeps the
    normaliser near 1, so that logits do not grow to where bfloat16 is coarse.
    """
    logits, targets = mtf.to_float(logits), mtf.to_float(targets)
    if not z_loss:
        log_probs = mtf.log_softmax(logits, vocab_dim)
        return mtf.negative(mtf.reduce_sum(targets * log_probs, reduced_dim=vocab_dim))
    log_z = mtf.reduce_logsumexp(logits, vocab_dim)
    loss = mtf.negative(mtf.reduce_sum(targets * (logits - log_z), reduced_dim=vocab_dim))
    return loss + z_loss * mtf.square(log_z)


def sigmoid_cross_entropy_with_logits(
    logits: mtf.TensorLike, targets: mtf.TensorLike
) -> mtf.Tensor:
    """Returns -targets * log(sigmoid(logits)) - (1 - targets) * log(1 - sigmoid(logits)), float32.

    Of independent binary classifications {...}; targets: probabilities {...}.
    """
    logits, targets = mtf.to_float(logits), mtf.to_float(targets)
    if set(logits.shape) != set(targets.shape):
        shapes = f"logits {logits.shape} and targets {targets.shape}"
        raise mtf.ShapeError(f"{shapes} must have the same dimensions: use mtf.broadcast")
    # -log(1 - sigmoid(x)) = softplus(x), and -log(sigmoid(x)) = softplus(x) - x.
    return mtf.softplus(logits) - logits * targets


def weights_nonzero(targets: mtf.TensorLike, dtype: tf.DType = tf.float32) -> mtf.Tensor:
    """Returns 1 for every id but 0, which is padding, and 0 for padding."""
    return mtf.cast(mtf.not_equal(targets, 0), dtype)


def softmax_cross_entropy_with_ids(
    logits: mtf.TensorLike,
    ids: mtf.TensorLike,
    vocab_dim: mtf.Dimension,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> mtf.Tensor:
    """Returns `softmax_cross_entropy_with_logits` for targets that are ids, without one-hots.

    logits: {..., vocab_dim}; ids: {...} int32. With label smoothing s, in [0, 1), the target is
    (1 - s) * one_hot(ids) + s / vocab_dim.size; Szegedy et al. 2016, arXiv:1512.00567, section 7.
    """
    logits = mtf.to_float(logits)
    cross_entropy = mtf.sparse_cross_entropy(
        logits, ids, vocab_dim, logsumexp_gradient=bool(label_smoothing or z_loss)
    )
    return regularised_cross_entropy(
        cross_entropy, logits, vocab_dim, label_smoothing=label_smoothing, z_loss=z_loss
    )


def regularised_cross_entropy(
    cross_entropy: mtf.CrossEntropy,
    logits: mtf.TensorLike,
    vocab_dim: mtf.Dimension,
    *,
    label_smoothing: float,
    z_loss: float,
    num_classes: int | None = None,
) -> mtf.Tensor:
    """Returns `softmax_cross_entropy_with_ids`; smoothing is over `num_classes`, None for all."""
    loss = cross_entropy.loss
    if label_smoothing:
        if num_classes is None:
            num_classes = vocab_dim.size
        if num_classes < vocab_dim.size:
            is_class = mtf.less(mtf.range(loss.mesh, vocab_dim), num_classes)
            logits = mtf.where(is_class, logits, 0.0)
        mean = mtf.reduce_sum(logits, reduced_dim=vocab_dim) * (1.0 / num_classes)
        uniform = cross_entropy.logsumexp - mean
        loss = loss + label_smoothing * (uniform - loss)
    if z_loss:
        loss = loss + z_loss * mtf.square(cross_entropy.logsumexp)
    return loss
