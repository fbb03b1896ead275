"""Batch normalisation, synchronised over the mesh; Ioffe and Szegedy 2015, arXiv:1502.03167."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mtfrun import mtf
from mtfrun.layers.layer import Call, Layer


class BatchNorm(Layer):
    """`mtf.batch_normalize` with a trained scale and bias, and moving averages for evaluation.

    In training the next moving averages go to the call's collector, to be assigned at the end of
    the step: a variable must not be read after it was assigned. They are linear in the statistics
    of the batch, so that over microbatches their mean is right.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        features: Iterable[mtf.Dimension],
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        init_zero: bool = False,
        unbiased: bool = False,
    ) -> None:
        """Makes the specs of scale, bias, moving_mean and moving_variance {*features}.

        Args:
          features: such as the channels; the statistics are over all other dimensions of x.
          momentum: the factor of the moving averages in a step; the batch's is 1 - momentum.
          epsilon: added to the variance.
          init_zero: the scale is initialised to 0, not 1: a residual block begins as the identity
            (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
          unbiased: the moving variance is divided by n - 1, not n, of the n entries of a feature,
            as in torch.nn.BatchNorm2d; both normalise a batch with n.
        """
        super().__init__()
        self._unbiased = unbiased
        shape = mtf.Shape(features)
        self._momentum = momentum
        self._epsilon = epsilon
        one = mtf.initializers.Ones()
        scale_initializer = mtf.initializers.Zeros() if init_zero else one

        def vector(initializer: mtf.Initializer, *, trainable: bool) -> mtf.Variable:
            return mtf.Variable(
                mesh, shape, initializer, dtypes.master, trainable=trainable, reduced_dims=()
            )

        self.scale = vector(scale_initializer, trainable=True)
        self.bias = vector(mtf.initializers.Zeros(), trainable=True)
        self.moving_mean = vector(mtf.initializers.Zeros(), trainable=False)
        self.moving_variance = vector(one, trainable=False)

    @property
    def updated_variables(self) -> Sequence[mtf.Variable]:
        return self.moving_mean, self.moving_variance

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        """Returns x {..., *features} normalised by its statistics in training, else by averages."""
        scale, bias = mtf.to_float(self.scale), mtf.to_float(self.bias)
        if not call.training:
            mean, variance = mtf.to_float(self.moving_mean), mtf.to_float(self.moving_variance)
            # Only two of these operations are on x, the rest on {*features}.
            factor = mtf.rsqrt(variance + self._epsilon) * scale
            y = mtf.to_float(x) * factor + (bias - mean * factor)
            return mtf.cast(y, x.dtype)
        y, mean, variance = mtf.batch_normalize(x, scale, bias, self._epsilon)
        if self._unbiased:
            entries = x.shape.size // self.scale.shape.size
            variance = variance * (entries / max(entries - 1, 1))
        if call.collector is not None:
            for average, statistic in ((self.moving_mean, mean), (self.moving_variance, variance)):
                before = mtf.to_float(average) * self._momentum
                call.collector.add_update(average, before + statistic * (1.0 - self._momentum))
        return y
