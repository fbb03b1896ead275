"""Universal Transformers: the same blocks at every step, and adaptive numbers of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from mtfrun import mtf
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.mesh_tensorflow.zoo.stacks.halting import Halting
from mtfrun.extras.mesh_tensorflow.zoo.stacks.step_signals import StepSignals
from mtfrun.models.transformer.attention.self_attention import RelativeBiasClass, SelfAttention
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import StackTransforms, SublayerClass
from mtfrun.models.transformer.stack import RunWithState, Stack
from mtfrun.models.transformer.sublayer import SequenceCall


@dataclasses.dataclass(frozen=True)
class Recurrence:
    """The steps of a `UniversalStack`.

    Attributes:
      num_steps: how often the blocks are applied.
      signals: a class, called as `signals(mesh, d_model, num_steps, dtypes)`, which adds vectors
        of the step and the position before every step; None for none.
      halting: a class, called as `halting(mesh, d_model, dtypes)`: every position's output is a
        mixture of the steps until it halts; None for the last step's.
    """

    num_steps: int = 6
    signals: Callable[..., StepSignals] | None = StepSignals
    halting: Callable[..., Halting] | None = None

    def __post_init__(self) -> None:
        check_range("Recurrence.num_steps", self.num_steps, COUNT)


class UniversalStack(Stack):
    """`Stack` whose blocks are applied several times, with the same variables.

    Dehghani et al. 2018, arXiv:1807.03819, with one block. While decoding every step has caches of
    its own. Every step draws dropout anew; the losses and metrics of a layer are the sums of all
    steps. It has no loop over blocks (`scan_blocks`); `rematerialise` is of every block of every
    step.
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
        """Returns the states of all steps, which share what does not change while decoding."""
        return [super().initial_state(batch, memory_length, call)] * self._num_steps

    def _run_blocks(self, x: mtf.Tensor, call: SequenceCall) -> list[mtf.Tensor]:
        run_blocks = super()._run_blocks
        outputs = []

        def apply(step: int, x: mtf.Tensor) -> mtf.Tensor:
            outputs.append(run_blocks(x, call.of_step(step))[-1])
            return outputs[-1]

        output = self._run_steps(x, apply, call)
        return [*outputs[:-1], output]

    def _run_blocks_with_states(
        self, run: RunWithState, x: mtf.Tensor, state: Any, call: SequenceCall
    ) -> tuple[mtf.Tensor, Any]:
        run_blocks = super()._run_blocks_with_states
        next_state = []

        def apply(step: int, x: mtf.Tensor) -> mtf.Tensor:
            x, of_step = run_blocks(run, x, state[step], call)
            next_state.append(of_step)
            return x

        return self._run_steps(x, apply, call), next_state

    def _run_steps(
        self, x: mtf.Tensor, apply: Callable[[int, mtf.Tensor], mtf.Tensor], call: SequenceCall
    ) -> mtf.Tensor:
        """Returns x after all steps, `apply(step, x)` of x with its signals."""

        def begin(step: int, x: mtf.Tensor) -> mtf.Tensor:
            return x if self.signals is None else self.signals(x, step, call)

        if self.halting is not None:
            return self.halting(x, self._num_steps, begin, apply, call)
        for step in range(self._num_steps):
            x = apply(step, begin(step, x))
        return x
