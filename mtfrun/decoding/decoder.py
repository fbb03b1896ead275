"""What decoding needs of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from mtfrun import mtf

# (ids {batch} of the position before, position, state) -> (logits {batch, vocab}, next state).
# At position 0 the ids are 0. The position is an int32 scalar, the state a nested structure of
# tensors.
StepFunction = Callable[[mtf.Tensor, mtf.Tensor, Any], tuple[mtf.Tensor, Any]]


class Decoder(NamedTuple):
    """A model that makes one position after the other."""

    step: StepFunction
    initial_state: Any
