"""Dropout: as a layer that draws by its own path, and with a rate that falls over the steps."""

from __future__ import annotations

from mtfrun import mtf
from mtfrun.layers.context import Context


class Dropout(mtf.Module):
    """Sets a share of the elements to 0 in training; Srivastava et al. 2014.

    The noise depends on the step's key, the module's path and the element's index, so that no
    layout and no rematerialisation changes it.

    Raises:
      ValueError: the rate is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        """Takes the share of elements that are dropped."""
        super().__init__()
        _require_share("dropout_rate", rate)
        self.rate = rate

    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns x with dropped elements, the others scaled to keep the mean."""
        if not context.training or self.rate == 0.0:
            return x
        return mtf.dropout(x, True, rate=self.rate, key=context.key_of(self))


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

    Rennie et al. 2014, "Annealed dropout training of deep networks". The rate is `init_rate` up to
    `start_step`, from there linear in the step, and 0 from `end_step` on. (Mesh TensorFlow goes on
    with the line before `start_step`, to rates above `init_rate`.)

    Args:
      x: any tensor of floats.
      training: False returns x.
      start_step, end_step: where the rate begins to fall, and where it is 0.
      init_rate: the rate at first, in [0, 1); None returns x.
      noise_shape: dimensions that have their own noise; the others share it. By default all.
      step: the global step, a scalar.
      key: which draw this is, see `mtf.dropout`.

    Raises:
      ValueError: the rate is not in [0, 1), or the steps are not in order.
    """
    if not training or not init_rate:
        return x
    _require_share("init_rate", init_rate)
    if start_step >= end_step:
        raise ValueError(
            f"annealed_dropout needs start_step < end_step, got {start_step} and {end_step}"
        )
    left = (end_step - mtf.to_float(step)) / (end_step - start_step)
    keep = 1.0 - init_rate * mtf.minimum(mtf.maximum(left, 0.0), 1.0)
    shape = x.shape if noise_shape is None else mtf.convert_to_shape(noise_shape)
    for dim in shape:
        x.shape.index(dim)
    kept = mtf.less(mtf.random_uniform(x.mesh, shape, key=key), keep)
    return x * mtf.cast(mtf.to_float(kept) / keep, x.dtype)


def _require_share(name: str, rate: float) -> None:
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"{name}={rate} must be in [0, 1)")
