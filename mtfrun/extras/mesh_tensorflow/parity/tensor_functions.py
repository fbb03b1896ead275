"""Mesh TensorFlow's functions of tensors: noise, clipping of gradients, limits, correlation.

New models use `layers.Dropout`, `moe.Jitter` and `optim.clip_by_global_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, SHARE_BELOW_1, check_range
from mtfrun.models.moe import Jitter
from mtfrun.mtf.porting import accept_name


def multiplicative_jitter(x: mtf.Tensor, epsilon: float = 0.01, *, key: mtf.Key) -> mtf.Tensor:
    """Returns x, every element multiplied by a draw uniform in [1 - epsilon, 1 + epsilon).

    It makes a model robust against rounding to bfloat16, such as of close router logits; Fedus et
    al. 2021, arXiv:2101.03961, section 2.4.
    """
    return x if epsilon == 0.0 else Jitter(epsilon)(x, key)


@accept_name
def annealed_dropout(
    x: mtf.Tensor,
    training: bool,
    start_step: int,
    end_step: int,
    init_rate: float | None = None,
    noise_shape: mtf.ShapeLike | None = None,
    *,
    step: mtf.Tensor,
    key: mtf.Key,
) -> mtf.Tensor:
    """Returns x with elements dropped at a rate that falls from `init_rate` to 0.

    Rennie et al. 2014, "Annealed dropout training of deep networks". The rate is `init_rate`, in
    [0, 1), up to `start_step`, from there linear in the step, and 0 from `end_step` on. (In Mesh
    TensorFlow the rate is linear before `start_step` as well, above `init_rate`.)
    """
    if not training or not init_rate:
        return x
    check_range("init_rate", init_rate, SHARE_BELOW_1)
    if start_step >= end_step:
        raise InputError(
            f"annealed_dropout needs start_step < end_step, got {start_step} and {end_step}"
        )
    unclipped = (end_step - mtf.to_float(step)) / (end_step - start_step)
    keep_prob = 1.0 - init_rate * mtf.minimum(mtf.maximum(unclipped, 0.0), 1.0)
    shape = x.shape if noise_shape is None else mtf.convert_to_shape(noise_shape)
    for dim in shape:
        x.shape.index(dim)  # raises a ShapeError
    mask = mtf.less(mtf.random_uniform(x.mesh, shape, key=key), keep_prob)
    return x * mtf.cast(mtf.to_float(mask) / keep_prob, x.dtype)


def clip_activation_gradient(x: mtf.Tensor, clip_rms_norm: float | None = None) -> mtf.Tensor:
    """Returns x, whose gradient is scaled down to a root mean square of at most `clip_rms_norm`.

    The mean is over the whole gradient, of all devices: {} for x {...}, one all-reduce over every
    axis that splits x.
    """
    check_range("clip_rms_norm", clip_rms_norm, POSITIVE, optional=True)
    if clip_rms_norm is None:
        return x

    def clip(
        _inputs: Sequence[mtf.Tensor], _outputs: Sequence[mtf.Tensor], grads: Sequence[mtf.Tensor]
    ) -> list[mtf.Tensor]:
        rms = mtf.sqrt(mtf.reduce_mean(mtf.square(mtf.to_float(grads[0]))))
        return [grads[0] / mtf.cast(mtf.maximum(rms / clip_rms_norm, 1.0), x.dtype)]

    return mtf.custom_gradient(mtf.identity, clip, [x])


def decode_limits(
    inputs: mtf.Tensor, multiplier: float, constant: int, *, batch_wide: bool = False
) -> mtf.Tensor:
    """Returns {batch} int32: int(number of ids in the input * multiplier + constant).

    A row without any id has the limit 0: it pads the batch. Mesh TensorFlow has 1.5, 10 and
    `batch_wide`: the limit of the longest input for all rows, which then depend on each other.
    """
    batch, length = inputs.shape
    numbers = mtf.reduce_sum(mtf.to_int32(mtf.not_equal(inputs, 0)), reduced_dim=length)
    filled = mtf.greater(numbers, 0)
    if batch_wide:
        numbers = mtf.broadcast(mtf.reduce_max(numbers), [batch])
    limits = mtf.cast(mtf.to_float(numbers) * multiplier + float(constant), tf.int32)
    return mtf.where(filled, limits, 0)


def corr(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns {dim_1, dim_2}: Pearson's correlation of every two entries of x {samples, dim}."""
    centred = x - mtf.reduce_mean(x, output_shape=[dim])
    # Both from one sum of squares, so that the diagonal is 1.
    normal = centred * mtf.rsqrt(mtf.reduce_sum(mtf.square(centred), output_shape=[dim]))
    first, second = (mtf.Dimension(f"{dim.name}_{i}", dim.size) for i in (1, 2))
    sides = [mtf.rename_dimension(normal, dim.name, side.name) for side in (first, second)]
    return mtf.einsum(sides, output_shape=[first, second])
