"""What decoding needs of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mtfrun import mtf

# (ids {batch...} of the position before, position, state) -> (logits {batch..., vocab}, next
# state). The logits' dimensions come in any order. At position 0 the ids are 0. The position is an
# int32 scalar, the state a nested structure of tensors.
StepFunction = Callable[[mtf.Tensor, mtf.Tensor, Any], tuple[mtf.Tensor, Any]]


class Decoder(NamedTuple):
    """A model that makes one position after the other, for rows {batch} or {batch, beam}.

    Attributes:
      step: makes one position.
      initial_state: before position 0. A beam search reorders the tensors that have its beam
        dimension; what all beams share, such as an encoded input, lacks it.
      within: returns the decoder of the first n positions only, whose state is smaller along some
        dimensions and starts equally. Steps cost less as long as that is enough.
      at_once: called as at_once(n, known), returns the decoder whose first state has read prompts
        in one pass over n positions: of each row as many ids as `known` {batch} int32 says, at most
        n. Steps at the positions of these ids change nothing in that row, for it goes on behind
        them. None: steps read the prompts.
      prefix: prompts must be read at once, as those of a prefix language model, whose ids see each
        other.
      given_ends: an end id in a prompt ends nothing: it is that of inputs, before the targets.
    """

    step: StepFunction
    initial_state: Any
    within: Callable[[int], Decoder] | None = None
    at_once: Callable[[int, mtf.Tensor], Decoder] | None = None
    prefix: bool = False
    given_ends: bool = False

    def step_by_step(self) -> Decoder:
        """Returns the decoder reading prompts step by step; as it is if it cannot do so."""
        return self if self.prefix else self._replace(at_once=None)
