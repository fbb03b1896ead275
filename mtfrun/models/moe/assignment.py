"""What a gate is asked to fill."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One call of a gate: the tokens, the experts, the room.

    Args:
      group: the dimension of the tokens that share the experts' slots.
      experts: the dimension of the experts, without a layout rule.
      capacity: the slots of an expert for every group.
      importance: {..., group} float32 in [0, 1]: 1 for a token that may visit as many experts as
        the gate likes, between 0 and 1 for one that may visit one, 0 for padding. None: all 1.
      training: whether the gate's training policies hold.
      key: what random policies draw from.
    """

    group: mtf.Dimension
    experts: mtf.Dimension
    capacity: mtf.Dimension
    importance: mtf.Tensor | None = None
    training: bool = False
    key: mtf.Key | None = None

    @property
    def dims(self) -> tuple[mtf.Dimension, mtf.Dimension, mtf.Dimension]:
        """The dimensions (group, experts, capacity)."""
        return self.group, self.experts, self.capacity

    def full(self) -> mtf.Tensor | None:
        """Returns 1.0 where a token has importance 1, else 0.0; None where all have."""
        return None if self.importance is None else mtf.to_float(mtf.equal(self.importance, 1.0))

    def present(self) -> mtf.Tensor | None:
        """Returns 1.0 where a token has any importance, else 0.0; None where all have."""
        return None if self.importance is None else mtf.to_float(mtf.greater(self.importance, 0.0))

    def key_for(self, what: str) -> mtf.Key:
        """Returns the key of one kind of draw.

        Raises:
          ValueError: the call has no key.
        """
        if self.key is None:
            raise ValueError(
                f"{what} needs random numbers and this call has no key: "
                "use a policy without them for evaluation and decoding"
            )
        return self.key.fold_in(what)


def masked(x: mtf.Tensor, mask: mtf.Tensor | None) -> mtf.Tensor:
    """Returns x times a mask; x where there is none."""
    return x if mask is None else x * mask
