"""What layers compute inside, for pictures of what a model does with a sample."""

from __future__ import annotations

from typing import NamedTuple

from mtfrun import mtf


class Recorded(NamedTuple):
    """The contents of a `Recorder`, a nested structure of tensors.

    Attributes:
      self_attention, memory_attention: by the path of the attention {batch..., heads..., length,
        memory_length}, the weights of vectors to their own sequence, and to another one.
      experts: by the path of the mixture and the name of a level, the expert that every token
        visits first, int32, -1 for none; {...} of all tokens, in the order of {batch..., length}.
    """

    self_attention: dict[str, mtf.Tensor]
    memory_attention: dict[str, mtf.Tensor]
    experts: dict[str, dict[str, mtf.Tensor]]


class Recorder:
    """Takes inner values of layers during one call of a model, which is not for training.

    A layer that computes them in another way, such as attention in blocks, leaves them out.
    """

    def __init__(self) -> None:
        """Starts empty."""
        self.contents = Recorded({}, {}, {})

    def add_attention(self, layer: mtf.Module, weights: mtf.Tensor, *, to_itself: bool) -> None:
        """Adds the weights of an attention."""
        recorded = self.contents
        part = recorded.self_attention if to_itself else recorded.memory_attention
        part[layer.path] = weights

    def add_experts(self, layer: mtf.Module, level: str, experts: mtf.Tensor) -> None:
        """Adds the experts of tokens."""
        self.contents.experts.setdefault(layer.path, {})[level] = experts
