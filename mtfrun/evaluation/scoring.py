"""Log-probabilities of targets under a model."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.models.model import TextModel


def target_log_probs(model: TextModel, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns the log-probability of every target, {batch, length} float32; 0 for padding.

    It is conditioned on the preceding targets and on the inputs.
    """
    targets = features["targets"]
    logits = model.logits(features)
    (vocab,) = logits.shape - targets.shape
    nats = mtf.sparse_softmax_cross_entropy(logits, mtf.maximum(targets, 0), vocab)
    return mtf.where(mtf.not_equal(targets, model.padding_id), mtf.negative(nats), 0.0)
