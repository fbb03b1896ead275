"""Learned prompts: vectors before the vectors of a text, trained in the place of a model."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.checks import COUNT, POSITIVE, check_range
from mtfrun.errors import InputError
from mtfrun.layers import Adapter
from mtfrun.models.transformer.token_model import TokenModel


@dataclasses.dataclass(frozen=True)
class LearnedPrompts(Adapter):
    """Trains vectors before the inputs of an encoder-decoder, or before a language model's text.

    Prompt tuning; Lester et al. 2021, arXiv:2104.08691. All texts of a packed row see the vectors;
    pairs of an encoder-decoder have rows of their own, since an encoder's vectors see the inputs.
    Relative and rotary positions count them, a table of positions does not.

    Attributes:
      length: the number of vectors.
      stddev: the standard deviation of their initial values.
    """

    length: int = 20
    stddev: float = 0.5

    def __post_init__(self) -> None:
        check_range("LearnedPrompts.length", self.length, COUNT)
        check_range("LearnedPrompts.stddev", self.stddev, POSITIVE)

    def attach(self, root: mtf.Module) -> None:
        """See `Adapter`."""
        why = root.cannot_read_prompt if isinstance(root, TokenModel) else "it reads no text"
        if why or not isinstance(root, TokenModel):
            raise InputError(f"LearnedPrompts have no place in {type(root).__name__}: {why}")
        root.prompt.learn(root.embedding.vectors_like(), self.length, self.stddev)
