"""Universal Transformers: recurrent blocks with adaptive computation time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, NOT_NEGATIVE, SHARE_WITHIN, check_choice, check_range
from mtfrun.layers import Dense, Layer, Metric, SinusoidPositions
from mtfrun.models.transformer.attention import RelativeBiasClass, SelfAttention
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import StackTransforms, SublayerClass
from mtfrun.models.transformer.stack import RunWithState, Stack
from mtfrun.models.transformer.sublayer import SequenceCall

SINUSOID, TRAINED = "sinusoid", "trained"


class StepSignals(Layer):
    """Adds embeddings of the step and the position to x.

    Dehghani et al. 2018, arXiv:1807.03819, equations 4 and 5: sinusoids of the step, which counts
    from 1, and of the position.

    Args:
      num_steps: the stack's number of steps.
      steps: "sinusoid", "trained" for a table as in Mesh TensorFlow's UTLayerStack, or None.
      positions: whether positions are added; in packed rows they restart with each document.
      num_trained: the number of leading steps with a trained vector; None for all.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        num_steps: int,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        steps: str | None = SINUSOID,
        positions: bool = True,
        num_trained: int | None = None,
    ) -> None:
        super().__init__()
        if steps is not None:
            check_choice("StepSignals.steps", steps, (SINUSOID, TRAINED))
        check_range("StepSignals.num_trained", num_trained, COUNT, optional=True)
        self._steps, self._positions = steps, positions
        self._dtype = dtypes.activation
        self._factor = d_model.size**0.5
        if positions or steps == SINUSOID:
            self.sinusoids = SinusoidPositions(mesh, num_steps, d_model, dtypes)
        if steps == TRAINED:
            self._rows = mtf.Dimension("steps", num_steps if num_trained is None else num_trained)
            initial = mtf.initializers.RandomNormal(d_model.size**-0.5)
            self.table = mtf.Variable(
                mesh, [self._rows, d_model], initial, dtypes.master, reduced_dims=()
            )

    def __call__(self, x: mtf.Tensor, step: int, call: SequenceCall) -> mtf.Tensor:
        """Adds the signals of a step, counted from 0, to x {..., d_model}."""
        if self._positions:
            positions = call.text_positions
            positions = call.positions(x) if positions is None else positions
            x = mtf.add(x, self.sinusoids(positions, call), output_shape=x.shape)
        if self._steps == SINUSOID:
            x = x + self.sinusoids(mtf.constant(x.mesh, step + 1), call)
        if self._steps == TRAINED and step < self._rows.size:
            x = x + mtf.cast(mtf.gather(self.table, step, self._rows) * self._factor, self._dtype)
        return x


INTERPOLATED, ACCUMULATED = "interpolated", "accumulated"
# Maps a step's number and x to x.
StepFunction = Callable[[int, mtf.Tensor], mtf.Tensor]


class Halting(Layer):
    """Mixes the outputs of steps by halting probabilities, position by position.

    Graves 2016, arXiv:1603.08983, section 2.1, per position as in Dehghani et al. 2018,
    arXiv:1807.03819, appendix C: a sigmoid of x before a step gives the probability p of halting
    after it. A position halts at the step where its sum of p exceeds 1 - epsilon, which has the
    remainder, 1 - (earlier p), as its weight. All steps are computed for all positions, since
    others attend to them. As in Mesh TensorFlow's UTLayerStack, a position that never halts has no
    remainder.

    Metrics: "ponder_steps", the mean number of steps, and "ponder_cost", the mean of steps plus
    remainders (Graves, equation 11).

    Args:
      epsilon: see above.
      combination: "accumulated" is the paper's sum of weight * output; "interpolated", Mesh
        TensorFlow's "basic" and Tensor2Tensor's, is y = weight * output + (1 - weight) * y.
      loss_weight: the coefficient of the ponder cost in the loss.
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
        """Returns the mixture over all steps of `x = apply(step, begin(step, x))`."""
        zeros = mtf.zeros(x.mesh, x.shape - self._d_model)
        probability = remainder = num_counted = zeros
        mixed = mtf.zeros_like(x)
        for step in range(num_steps):
            x = begin(step, x)
            logits = mtf.reduce_sum(self.unit(x, call), reduced_dim=self._halting)
            p = mtf.sigmoid(mtf.to_float(logits))
            is_running = mtf.to_float(mtf.less(probability, 1.0))
            reached = probability + p * is_running
            halts = mtf.to_float(mtf.greater(reached, self._threshold)) * is_running
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


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The steps of a `UniversalStack`.

    Attributes:
      num_steps: the number of times that the blocks are applied.
      signals: the class of the embeddings of steps and positions, called as
        `signals(mesh, d_model, num_steps, dtypes)`; or None.
      halting: the class of the halting unit, called as `halting(mesh, d_model, dtypes)`; None to
        return the last step's output.
    """

    num_steps: int = 6
    signals: Callable[..., StepSignals] | None = StepSignals
    halting: Callable[..., Halting] | None = None

    def __post_init__(self) -> None:
        check_range("Recurrence.num_steps", self.num_steps, COUNT)


class UniversalStack(Stack):
    """A `Stack` that applies its blocks several times; Dehghani et al. 2018, arXiv:1807.03819.

    Each step has separate caches and dropout masks; a layer's losses and metrics are summed over
    the steps. `rematerialise` applies to each block of each step. It has no loop over blocks
    (`scan_blocks`).
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        recurrence: Recurrence = Recurrence(),
        num_layers: int = 1,
        layers: Sequence[SublayerClass] = (SelfAttention, FeedForward),
        transforms: StackTransforms = StackTransforms(),
        relative_bias: RelativeBiasClass | None = None,
        rematerialise: bool | Sequence[str] = False,
    ) -> None:
        super().__init__(
            mesh,
            d_model,
            dtypes,
            num_layers=num_layers,
            layers=layers,
            transforms=transforms,
            relative_bias=relative_bias,
            rematerialise=rematerialise,
        )
        self._num_steps = recurrence.num_steps
        self.signals, self.halting = None, None
        if recurrence.signals is not None:
            self.signals = recurrence.signals(mesh, d_model, recurrence.num_steps, dtypes)
        if recurrence.halting is not None:
            self.halting = recurrence.halting(mesh, d_model, dtypes)

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        return [super().initial_state(batch, memory_length, call)] * self._num_steps

    def _run_blocks(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        run_blocks = super()._run_blocks
        outputs = []

        def apply(step: int, x: mtf.Tensor) -> mtf.Tensor:
            outputs.append(run_blocks(x, call.for_step(step))[-1])
            return outputs[-1]

        output = self._run_steps(x, apply, call)
        return [*outputs[:-1], output]

    def _run_blocks_with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        run_blocks = super()._run_blocks_with_states
        next_state = []

        def apply(step: int, x: mtf.Tensor) -> mtf.Tensor:
            x, step_state = run_blocks(run, x, state[step], call)
            next_state.append(step_state)
            return x

        return self._run_steps(x, apply, call), next_state

    def _run_steps(
        self, x: mtf.Tensor, apply: Callable[[int, mtf.Tensor], mtf.Tensor], call: SequenceCall
    ) -> mtf.Tensor:
        """Applies `apply(step, x)` to x with its signals for all steps."""

        def begin(step: int, x: mtf.Tensor) -> mtf.Tensor:
            return x if self.signals is None else self.signals(x, step, call)

        if self.halting is not None:
            return self.halting(x, self._num_steps, begin, apply, call)
        for step in range(self._num_steps):
            x = apply(step, begin(step, x))
        return x
