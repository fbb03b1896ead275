"""Gradients of activations, bounded on their way back."""

from __future__ import annotations

from collections.abc import Sequence

from mtfrun import mtf


def clip_activation_gradient(x: mtf.Tensor, clip_rms_norm: float | None = None) -> mtf.Tensor:
    """Returns x, whose gradient is scaled down where its root mean square exceeds a bound.

    The mean is over the whole gradient, of all devices: {} for x {...}, one all-reduce over every
    axis that splits x.

    Args:
      x: any tensor of floats.
      clip_rms_norm: the bound, positive; None leaves the gradient alone.

    Raises:
      ValueError: the bound is not positive.
    """
    if clip_rms_norm is None:
        return x
    if not clip_rms_norm > 0.0:
        raise ValueError(f"clip_rms_norm={clip_rms_norm} must be positive, or None not to clip")

    def clipped(
        inputs: Sequence[mtf.Tensor], outputs: Sequence[mtf.Tensor], grads: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        rms = mtf.sqrt(mtf.reduce_mean(mtf.square(mtf.to_float(grads[0]))))
        return [grads[0] / mtf.cast(mtf.maximum(rms / clip_rms_norm, 1.0), x.dtype)]

    return mtf.custom_gradient(mtf.identity, clipped, [x])
