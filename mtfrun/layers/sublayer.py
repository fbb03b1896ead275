"""The interface of the layers that a Transformer block is a list of."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping
from typing import Any

from mtfrun import mtf
from mtfrun.layers.context import Context


class Sublayer(mtf.Module, abc.ABC):
    """A layer from {..., d_model} to the same shape, over whole sequences or one position a call.

    A stack makes it as `sublayer_class(mesh, d_model, dtypes)`; its other arguments have defaults.
    """

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The measurements that a call hands to the context's collector, by name."""
        return {}

    @abc.abstractmethod
    def __call__(self, x: mtf.Tensor, context: Context) -> mtf.Tensor:
        """Returns the output for whole sequences; x: {..., length, d_model}."""

    def initial_state(
        self, batch: Iterable[mtf.Dimension], memory_length: mtf.Dimension, context: Context
    ) -> Any:
        """Returns what `step` remembers before the first position: nested tensors.

        Args:
          batch: the dimensions of x in `step`, without d_model. What is of one row, such as a cache
            of keys, has them all; what rows share may lack those that they share it over.
          memory_length: the positions that there will be.
          context: of all steps, still without a position.
        """
        del batch, memory_length, context
        return ()

    def step(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output for position `context.position` and the next state; x: {..., d_model}.

        A layer that treats positions one by one, as this default does, has no state.
        """
        return self(x, context), state

    def can_prefill(self, context: Context) -> bool:
        """Returns whether the layer has a `prefill` for such calls.

        It must have its own where it has a state, and where `step` is not for whole sequences. With
        a layer that has none, steps read the prompts.
        """
        own = type(self)
        stateless = own.initial_state is Sublayer.initial_state
        return stateless or own.prefill is not Sublayer.prefill

    def prefill(self, x: mtf.Tensor, state: Any, context: Context) -> tuple[mtf.Tensor, Any]:
        """Returns the output for whole sequences and the state after them; see `can_prefill`.

        The state of every row is that which steps at the positions before `context.known` would
        give, and such steps leave it as it is: rows go on from there. A layer that treats positions
        one by one, as this default does, has one step for all of them.

        Args:
          x: {..., length, d_model}.
          state: that of `initial_state` with as many positions.
          context: of whole sequences.
        """
        return self.step(x, state, context)


def metric_shapes(root: mtf.Module) -> dict[str, mtf.Shape]:
    """Returns the shapes of all measurements of layers below `root` as "path/name"."""
    return {
        f"{layer.path}/{name}": shape
        for layer in root.named_modules().values()
        if isinstance(layer, Sublayer)
        for name, shape in layer.metric_shapes.items()
    }
