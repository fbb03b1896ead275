"""What layers need to know about the call they are part of."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers.auxiliary import Collector


@dataclasses.dataclass(frozen=True)
class Context:
    """One call of a model, as its layers see it; immutable, made once a step.

    Args:
      training: whether dropout and other noise is on.
      key: what the noise of this step is drawn from; needed in training.
      self_attention_bias: added to the logits of self-attention: {memory_length} while decoding,
        else {length, memory_length}, with the batch dimensions where rows have masks of their own.
        Computed once a step, not once a layer.
      position: while decoding, the index of the position that is computed: an int32 scalar.
      known: {batch...} int32, how many ids of every row are read at once. The state that whole
        sequences leave behind is that of each row before this position, and a step at an earlier
        one leaves it as it is. None: steps read all.
      bidirectional: whether positions may see later ones; relative positions have a sign then.
      encoder_output: what a decoder attends to beside itself: {batch..., memory_length, d_model}.
      encoder_decoder_bias: added to the logits of that attention: {batch..., memory_length}, with
        `length` where positions see different parts.
      nonpadding: {batch..., length} float32, 1.0 for tokens and 0.0 for padding; None for no
        padding.
      sublayer_input: {..., d_model} what a sublayer of a stack was given, for the transforms around
        it; None elsewhere.
      collector: takes losses and measurements of layers; None where nobody wants them.
    """

    training: bool = False
    key: mtf.Key | None = None
    self_attention_bias: mtf.Tensor | None = None
    position: mtf.Tensor | None = None
    known: mtf.Tensor | None = None
    bidirectional: bool = False
    encoder_output: mtf.Tensor | None = None
    encoder_decoder_bias: mtf.Tensor | None = None
    nonpadding: mtf.Tensor | None = None
    sublayer_input: mtf.Tensor | None = None
    collector: Collector | None = None

    def positions(self, x: mtf.Tensor) -> mtf.Tensor:
        """Returns the positions of x {..., length, d_model} {length}, or the one of a step."""
        if self.position is not None:
            return self.position
        return mtf.range(x.mesh, x.shape.get_dim_by_name("length"))

    def number_known(self) -> mtf.Tensor:
        """Returns how many ids of every row are read at once.

        Raises:
          InputError: none are.
        """
        if self.known is None:
            raise InputError("a prefill needs context.known")
        return self.known

    def is_new(self) -> mtf.Tensor | None:
        """Returns {batch...} bool: whether a step is to change a row's state; None for all rows."""
        if self.position is None or self.known is None:
            return None
        return mtf.greater_equal(self.position, self.known)

    def key_of(self, module: mtf.Module) -> mtf.Key:
        """Returns the key of a module's noise: it depends on the module's path, not on the order
        of calls, so that rematerialisation draws the same noise again.

        Raises:
          InputError: the call was given no key.
        """
        if self.key is None:
            raise InputError(
                f"{module.path} needs random numbers in training: give the model a key"
            )
        return self.key.fold_in(module.path)
