"""The losses of a router beside the model's: balance of the load, and size of the logits."""

from __future__ import annotations

from mtfrun import mtf


def load_balancing_loss(
    mask: mtf.Tensor,
    gates: mtf.Tensor,
    group: mtf.Dimension,
    experts: mtf.Dimension,
    token_mask: mtf.Tensor | None = None,
) -> mtf.Tensor:
    """Returns experts**2 times the mean of f_e * P_e, 1 where the load is uniform; a scalar.

    f_e is the fraction of the tokens that choose expert e, without a gradient, P_e the mean of
    their gates for it. Lepikhin et al. 2020, arXiv:2006.16668, section 2.2; Fedus et al. 2021,
    arXiv:2101.03961, equations 4 to 6. Means are over the whole group, padding included.

    Args:
      mask: {..., group, experts} 1.0 at the expert that a token chooses; with a further dimension
        for several choices.
      token_mask: {..., group} 1.0 for tokens that count. It scales the loss of a group by their
        share, after f_e and P_e were taken over all tokens, as Mesh TensorFlow 0.1.21 does for
        switch gates.
    """
    fraction = mtf.reduce_mean(mask, reduced_dim=group)
    probability = mtf.reduce_mean(gates, reduced_dim=group)
    if token_mask is None:
        return mtf.reduce_mean(fraction * probability) * float(experts.size**2)
    batch = token_mask.shape - group
    per_group = mtf.reduce_mean(fraction * probability, output_shape=batch)
    share = mtf.reduce_mean(token_mask, output_shape=batch)
    return mtf.reduce_mean(per_group * share) * float(experts.size**2)


def router_z_loss(
    logits: mtf.Tensor, experts: mtf.Dimension, token_mask: mtf.Tensor | None = None
) -> mtf.Tensor:
    """Returns the mean of logsumexp(logits)**2; Zoph et al. 2022, arXiv:2202.08906, eq. 5."""
    square = mtf.square(mtf.reduce_logsumexp(logits, experts))
    if token_mask is None:
        return mtf.reduce_mean(square)
    return mtf.reduce_sum(square * token_mask) / mtf.maximum(mtf.reduce_sum(token_mask), 1.0)
