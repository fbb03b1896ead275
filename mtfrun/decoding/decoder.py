"""What decoding needs of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mtfrun import mtf

# (ids {batch...} of the position before, position, state) -> (logits {batch..., vocab}, next
# state). At position 0 the ids are 0. The position is an int32 scalar, the state a nested structure
# of tensors.
StepFunction = Callable[[mtf.Tensor, mtf.Tensor, Any], tuple[mtf.Tensor, Any]]


class Decoder(NamedTuple):
    """A model that makes one position after the other, for rows {batch} or {batch, beam}.

    Attributes:
      step: makes one position.
      initial_state: before position 0. A beam search reorders the tensors that have its beam
        dimension; what all beams share, such as an encoded input, lacks it.
      within: returns the decoder of the first n positions only, whose state is smaller along some
        dimensions and starts equally. Steps cost less as long as that is enough.
      prefilled: {batch} int32, how many ids of each row's prompt the initial state knows, as that
        of a prefix language model does; None for none. Steps begin behind those that all rows have;
        a step at a position whose id a longer row knows changes nothing.
      given_ends: an end id in a prompt ends nothing: it is that of inputs, before the targets.
    """

    step: StepFunction
    initial_state: Any
    within: Callable[[int], Decoder] | None = None
    prefilled: mtf.Tensor | None = None
    given_ends: bool = False
