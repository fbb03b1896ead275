"""Adaptive computation time: positions halt after different numbers of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import tensorflow as tf

from mtfrun import mtf
from mtfrun.errors.checks import NOT_NEGATIVE, SHARE_WITHIN, check_choice, check_range
from mtfrun.layers import Dense, Layer, Metric
from mtfrun.models.transformer.sublayer import SequenceCall

INTERPOLATED, ACCUMULATED = "interpolated", "accumulated"
# Of a step's number and vectors.
StepFunction = Callable[[int, mtf.Tensor], mtf.Tensor]


class Halting(Layer):
    """Mixes the outputs of steps by halting probabilities, position by position.

    Graves 2016, arXiv:1603.08983, section 2.1, for every position of a sequence as in Dehghani et
    al. 2018, arXiv:1807.03819, appendix C: a sigmoid of a position's vectors before a step is the
    probability p of halting after it, and the step at which the sum of all p exceeds 1 - epsilon is
    the last one that counts, by the remainder 1 - (the p before it). All steps are computed for all
    positions, whether they have halted or not: others attend to them. As in Mesh TensorFlow's
    UTLayerStack, a position that has not halted after the last step has no remainder.

    Metric "ponder_steps": the mean number of steps that count. "ponder_cost" is the mean of steps
    and remainders (Graves, equation 11), which `loss_weight` multiplies.

    Args:
      epsilon: see above.
      combination: "accumulated" is the paper's sum of weight * output; "interpolated", Mesh
        TensorFlow's "basic" and Tensor2Tensor's, is y = weight * output + (1 - weight) * y.
      loss_weight: of the ponder cost in the loss; 0 for none.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        epsilon: float = 0.01,
        combination: str = INTERPOLATED,
        loss_weight: float = 0.01,
    ) -> None:
        super().__init__()
        check_range("Halting.epsilon", epsilon, SHARE_WITHIN)
        check_choice("Halting.combination", combination, (INTERPOLATED, ACCUMULATED))
        check_range("Halting.loss_weight", loss_weight, NOT_NEGATIVE)
        self._threshold = 1.0 - epsilon
        self._accumulates = combination == ACCUMULATED
        self._loss_weight = loss_weight
        self._d_model, self._halting = d_model, mtf.Dimension("halting", 1)
        self.unit = Dense(mesh, [d_model], [self._halting], dtypes)

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        return {"ponder_steps": mtf.Shape(), "ponder_cost": mtf.Shape()}

    def __call__(
        self,
        x: mtf.Tensor,
        num_steps: int,
        begin: StepFunction,
        apply: StepFunction,
        call: SequenceCall,
    ) -> mtf.Tensor:
        """Returns the mixture of `x = apply(step, begin(step, x))` of all steps."""
        zeros = mtf.zeros(x.mesh, x.shape - self._d_model)
        probability = remainder = num_counted = zeros
        mixed = mtf.zeros_like(x)
        for step in range(num_steps):
            x = begin(step, x)
            p = mtf.sigmoid(mtf.to_float(self._logits(x, call)))
            is_running = _to_float(mtf.less(probability, 1.0))
            reached = probability + p * is_running
            halts = _to_float(mtf.greater(reached, self._threshold)) * is_running
            is_running = is_running - halts
            probability = probability + p * is_running
            remainder = remainder + halts * (1.0 - probability)
            probability = probability + halts * remainder
            num_counted = num_counted + is_running + halts
            weight = mtf.cast(p * is_running + halts * remainder, x.dtype)
            x = apply(step, x)
            mixed = x * weight + (mixed if self._accumulates else mixed * (1.0 - weight))
        self._collect(num_counted, remainder, call)
        return mixed

    def _logits(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return mtf.reduce_sum(self.unit(x, call), reduced_dim=self._halting)

    def _collect(self, num_counted: mtf.Tensor, remainder: mtf.Tensor, call: SequenceCall) -> None:
        if call.collector is None:
            return
        tokens = call.nonpadding
        tokens = mtf.ones(num_counted.mesh, num_counted.shape) if tokens is None else tokens
        tokens = mtf.broadcast(tokens, num_counted.shape)
        number = mtf.reduce_sum(tokens, output_shape=[])
        steps = mtf.reduce_sum(num_counted * tokens, output_shape=[])
        cost = mtf.reduce_sum((num_counted + remainder) * tokens, output_shape=[])
        metrics = {"ponder_steps": Metric(steps, number), "ponder_cost": Metric(cost, number)}
        call.collector.add_metrics(self, metrics)
        if self._loss_weight:
            mean = cost / mtf.maximum(number, 1.0)
            call.collector.add_loss(self, mean * self._loss_weight)


def _to_float(condition: mtf.Tensor) -> mtf.Tensor:
    return mtf.cast(condition, tf.float32)
