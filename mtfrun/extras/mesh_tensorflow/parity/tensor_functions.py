"""Mesh TensorFlow's functions for noise, gradient clipping, correlation and microbatches.

New models use `layers.Dropout`, `moe.Jitter`, `optim.clip_by_global_norm` and
`TrainOptions.microbatches`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import POSITIVE, SHARE_BELOW_1, check_range
from mtfrun.models.moe import Jitter
from mtfrun.mtf.porting import accept_name


def multiplicative_jitter(x: mtf.Tensor, epsilon: float = 0.01, *, key: mtf.Key) -> mtf.Tensor:
    """Multiplies every element by a uniform draw from [1 - epsilon, 1 + epsilon).

    Makes models robust to bfloat16 rounding, such as of close router logits; Fedus et al. 2021,
    arXiv:2101.03961, section 2.4.
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
    """Dropout at a rate that falls linearly from `init_rate` at `start_step` to 0 at `end_step`.

    Rennie et al. 2014, "Annealed dropout training of deep networks". (In Mesh TensorFlow the rate
    is linear before `start_step` as well, above `init_rate`.)
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
    """Returns x, with its gradient scaled to a root mean square of at most `clip_rms_norm`.

    The mean is over all devices: one all-reduce over every axis that splits x.
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


def corr(x: mtf.Tensor, dim: mtf.Dimension) -> mtf.Tensor:
    """Returns {dim_1, dim_2}: Pearson's correlations of the entries of x {samples, dim}."""
    centred = x - mtf.reduce_mean(x, output_shape=[dim])
    # Both from one sum of squares, so that the diagonal is 1.
    normal = centred * mtf.rsqrt(mtf.reduce_sum(mtf.square(centred), output_shape=[dim]))
    first, second = (mtf.Dimension(f"{dim.name}_{i}", dim.size) for i in (1, 2))
    sides = [mtf.rename_dimension(normal, dim.name, side.name) for side in (first, second)]
    return mtf.einsum(sides, output_shape=[first, second])


def serialize_training_step(
    features: Mapping[str, mtf.Tensor],
    model_fn: Callable[[dict[str, mtf.Tensor]], Mapping[str, mtf.Tensor]],
    batch_dim: mtf.DimensionLike,
    num_splits: int,
    variables: Mapping[str, mtf.Variable],
) -> tuple[dict[str, mtf.Tensor], dict[str, mtf.Tensor]]:
    """Returns gradients by path, and outputs by name, of a batch computed in microbatches.

    Microbatch m has the examples m, m + num_splits, m + 2 num_splits, ..., so that the examples of
    a split batch do not move. Gradients and outputs without a batch dimension are summed, other
    outputs concatenated in order. Works only inside `mtf.function`.

    Args:
      features: the tensors with `batch_dim`, by name.
      model_fn: the function from one microbatch's features to outputs by name, with the scalar
        "loss", a sum over examples.
      num_splits: the number of microbatches, a divisor of the batch.
      variables: the model's variables by path; Mesh TensorFlow takes them from its graph.
    """
    batch = mtf.convert_to_dimension(batch_dim)
    if batch.size % num_splits:
        raise mtf.ShapeError(
            f"{num_splits} microbatches do not divide {batch}: take a divisor of its size"
        )
    examples = mtf.Dimension(batch.name, batch.size // num_splits)
    microbatches = mtf.Dimension("microbatch", num_splits)
    names: dict[str, None] = {}

    def body(number: mtf.Tensor) -> list[mtf.Tensor]:
        def loss_and_outputs() -> tuple[mtf.Tensor, dict[str, mtf.Tensor]]:
            microbatch = {
                name: mtf.gather(
                    mtf.replace_dimensions(x, batch, [examples, microbatches]), number, microbatches
                )
                for name, x in features.items()
            }
            outputs = dict(model_fn(microbatch))
            return outputs["loss"], outputs

        (_, outputs), grads = mtf.value_and_gradients(loss_and_outputs, variables)
        names.update(dict.fromkeys(outputs))
        return [
            number + 1,
            *(_place(x, [examples, microbatches], number) for x in outputs.values()),
            *(mtf.zeros_like(variables[path]) if g is None else g for path, g in grads.items()),
        ]

    mesh = next(iter(features.values())).mesh
    start = mtf.constant(mesh, 0, dtype=tf.int32)
    _, *sums = mtf.while_loop(
        lambda n: n < num_splits, body, [start], has_accumulators=True, most_rounds=num_splits
    )
    outputs = dict(zip(names, sums[: len(names)], strict=True))
    return dict(zip(variables, sums[len(names) :], strict=True)), outputs


def _place(x: mtf.Tensor, parts: list[mtf.Dimension], number: mtf.Tensor) -> mtf.Tensor:
    """Returns a batch with zeros except for the microbatch's examples."""
    examples, microbatches = parts
    if examples not in x.shape:
        return x
    shape = mtf.replace_dimensions(x.shape, examples, parts)
    is_number = mtf.one_hot(number, microbatches, dtype=x.dtype)
    return mtf.replace_dimensions(
        mtf.einsum([x, is_number], shape), parts, mtf.combined_dimension(parts)
    )
