"""Losses of a router: equal loads, and logits that stay small."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.models.moe.assignment import Assignment, masked


def balance_loss(mask: mtf.Tensor, proxy: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
    """Returns experts**2 times the mean of load * probability; 1 where all experts are equal.

    Lepikhin et al. 2020, arXiv:2006.16668, section 2.2: the load has no gradient, hence the mean
    probability in its place. Means are over the whole group, padding included.

    Args:
      mask: {..., group, experts} 1.0 at the expert of a token.
      proxy: {..., group, experts} what has a gradient and correlates with it.
      assignment: the dimensions.
    """
    load = mtf.reduce_mean(mask, reduced_dim=assignment.group)
    probability = mtf.reduce_mean(proxy, reduced_dim=assignment.group)
    return mtf.reduce_mean(load * probability) * float(assignment.experts.size**2)


def balance_loss_masked_last(
    mask: mtf.Tensor, gates: mtf.Tensor, assignment: Assignment
) -> mtf.Tensor:
    """Returns the balance loss of switch gates: means first, then the mask of the padding.

    As in Mesh TensorFlow 0.1.21, whose means over a group count padding as well, and whose result
    then shrinks with the share of padding.

    Args:
      mask: {..., group, experts}, with further dimensions for several choices.
      gates: {..., group, experts}.
      assignment: the dimensions and importance.
    """
    load = mtf.reduce_mean(mask, reduced_dim=assignment.group)
    probability = mtf.reduce_mean(gates, reduced_dim=assignment.group)
    full = assignment.full()
    if full is None:
        return mtf.reduce_mean(load * probability) * float(assignment.experts.size**2)
    # Per group: the mean over its tokens of load * probability * full.
    batch = full.shape - assignment.group
    per_group = mtf.reduce_mean(load * probability, output_shape=batch)
    share = mtf.reduce_mean(full, output_shape=batch)
    return mtf.reduce_mean(per_group * share) * float(assignment.experts.size**2)


def z_loss(logits: mtf.Tensor, assignment: Assignment) -> mtf.Tensor:
    """Returns the mean of logsumexp(logits)**2 over the tokens of importance 1; a scalar.

    Zoph et al. 2022, arXiv:2202.08906, equation 5.
    """
    square = mtf.square(mtf.reduce_logsumexp(logits, assignment.experts))
    full = assignment.full()
    if full is None:
        return mtf.reduce_mean(square)
    return mtf.reduce_sum(masked(square, full)) / mtf.maximum(mtf.reduce_sum(full), 1.0)
