"""The log-likelihood that a model gives to targets."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.models.model import TextModel


def target_log_probs(model: TextModel, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns {batch, length} float32: the log-probability of every target, given those before it
    and the inputs; 0 where the target is padding."""
    targets = features["targets"]
    logits = model.logits(features)
    (vocab,) = logits.shape - targets.shape
    nats = mtf.sparse_softmax_cross_entropy(logits, targets, vocab)
    return mtf.where(mtf.not_equal(targets, 0), mtf.negative(nats), 0.0)
