"""The interface of the layers that a Transformer block is a list of."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any

from mtfrun import mtf
from mtfrun.layers import Layer
from mtfrun.models.transformer.sequence_call import SequenceCall


class Sublayer(Layer, abc.ABC):
    """A layer from {..., d_model} to the same shape, over whole sequences or one position a call.

    A stack makes it as `sublayer_class(mesh, d_model, dtypes)`; its other arguments have defaults.
    """

    @abc.abstractmethod
    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        """Returns the output for whole sequences; x: {..., length, d_model}."""

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, call: SequenceCall
    ) -> Any:
        """Returns the state before the first position, of `step` and `prefill`: nested tensors.

        `batch`: the dimensions of x in `step`, without d_model. A tensor for one row, such as a
        cache of keys, has them all; a tensor that rows share may lack those that they share it
        over. The call has no position yet.
        """
        return ()

    def step(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns the output at `call.progress.position` and the next state; x: {..., d_model}.

        A layer that computes positions one by one, as this default does, has no state.
        """
        return self(x, call), state

    def can_prefill(self, call: SequenceCall) -> bool:
        """Returns whether the layer has a `prefill` for such calls; otherwise steps read prompts.

        A layer defines it where it has a state, and where `step` is not for whole sequences.
        """
        stateless = type(self).initial_state is Sublayer.initial_state
        return stateless or type(self).prefill is not Sublayer.prefill

    def prefill(self, x: mtf.Tensor, state: Any, call: SequenceCall) -> tuple[mtf.Tensor, Any]:
        """Returns the output for whole sequences and the state after it; see `can_prefill`.

        The state of every row is as after steps at the positions before
        `call.progress.prompt_lengths`; later steps at these positions leave it as it is. A layer
        that computes positions one by one, as this default does, has one step for all of them.
        """
        return self.step(x, state, call)
