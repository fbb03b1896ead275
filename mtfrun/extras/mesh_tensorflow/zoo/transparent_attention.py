"""Transparent attention: every decoder block attends to a mixture of the encoder's blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.layers import Dropout
from mtfrun.models.transformer.attention import RelativeBiasClass, SelfAttention, encoder_memory
from mtfrun.models.transformer.feedforward import FeedForward
from mtfrun.models.transformer.residual_transforms import StackTransforms, SublayerClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall

_OUTPUTS, _BLOCKS = "encoder_outputs", "decoder_blocks"


class TransparentEncoder(Stack):
    """The encoder of a `TransparentDecoder`: returns its input and all blocks' outputs.

    {batch..., encoder_outputs, length, d_model}, the last after the final transforms. It has no
    loop over blocks (`scan_blocks`).
    """

    can_scan: ClassVar[bool] = False

    def __call__(self, x: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        return mtf.stack(self.outputs(x, call), _OUTPUTS, axis=-3)


@dataclasses.dataclass(frozen=True)
class EncoderMixture:
    """The trained mixtures of a `TransparentDecoder`.

    Attributes:
      num_encoder_layers: the number of encoder blocks.
      dropout_rate: the dropout rate of the mixing logits, as in Mesh TensorFlow.
    """

    num_encoder_layers: int = 6
    dropout_rate: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "num_encoder_layers")


class TransparentDecoder(Stack):
    """A decoder with blocks that attend to mixtures of a `TransparentEncoder`'s outputs.

    Bapna et al. 2018, arXiv:1808.07561, section 4: each block mixes them by a softmax of trained
    logits. It has no loop over blocks.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        mixture: EncoderMixture = EncoderMixture(),
        num_layers: int = 6,
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
        outputs = mtf.Dimension(_OUTPUTS, mixture.num_encoder_layers + 1)
        shape = [outputs, mtf.Dimension(_BLOCKS, num_layers)]
        initial = mtf.initializers.RandomNormal(outputs.size**-0.5)
        self.mixture_of_outputs = mtf.Variable(mesh, shape, initial, dtypes.master, reduced_dims=())
        self.mixture_dropout = Dropout(mixture.dropout_rate)

    def block_call(self, number: int, call: SequenceCall) -> SequenceCall:
        """Replaces the encoder's output by the block's mixture."""
        encoder = encoder_memory(call)
        outputs, blocks = self.mixture_of_outputs.shape.dims
        if outputs not in encoder.output.shape:
            raise InputError(
                f"a TransparentDecoder mixes {outputs}, the encoder returns "
                f"{encoder.output.shape}: use a TransparentEncoder of "
                f"EncoderMixture.num_encoder_layers={outputs.size - 1} blocks"
            )
        # One dropout mask for all blocks.
        logits = self.mixture_dropout(mtf.to_float(self.mixture_of_outputs), call)
        share = mtf.softmax(mtf.gather(logits, number, blocks), outputs)
        mixed = mtf.einsum(
            [encoder.output, mtf.cast(share, encoder.output.dtype)],
            output_shape=encoder.output.shape - outputs,
        )
        return dataclasses.replace(call, encoder=dataclasses.replace(encoder, output=mixed))
