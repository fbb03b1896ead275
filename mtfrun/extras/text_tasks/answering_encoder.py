"""Encoders with a decoder of answers, which are other ids than the labels that they predict."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.models.model import Features, Reporting
from mtfrun.models.transformer.architectures.encoder_only import EncoderOnly
from mtfrun.models.transformer.residual_transforms import TransformClass
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_loss import TokenLossTerm


class AnsweringEncoder(EncoderOnly):
    """An encoder with one answer for a text: a number, a set of labels, a span.

    Logits have the dimension `_labels`, the ids of answers `vocab`.

    Args:
      num_labels: the number of logits of a position.
      num_answer_ids: the number of ids that a decoder's outputs may have.
    """

    reporting: ClassVar[Reporting] = Reporting("texts", "texts", ("loss",), with_perplexity=False)
    optional_features: ClassVar[Collection[str]] = ("inputs_types",)

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        num_labels: int,
        num_answer_ids: int,
        embedding: TokenEmbedding,
        stack: Callable[..., Stack],
        head: Sequence[TransformClass],
        dtypes: mtf.DTypePolicy,
        num_types: int,
    ) -> None:
        super().__init__(
            mesh,
            vocabulary_size,
            embedding=embedding,
            stack=stack,
            head=head,
            dtypes=dtypes,
            num_types=num_types,
            num_labels=num_labels,
        )
        self._labels, self.vocab = self.vocab, embedding.vocab(num_answer_ids)

    def target_nats(self, features: Features) -> mtf.Tensor:
        raise InputError(
            f"{type(self).__name__} scores no targets: `mtfrun decode` prints its answers, and "
            "`mtfrun eval` compares them with the targets of a split"
        )

    def add_loss_term(self, term: TokenLossTerm) -> None:
        raise InputError(f"{type(self).__name__} has no loss of ids, to which terms are added")

    def _check_beam(self, beam: mtf.Dimension | None) -> None:
        if beam is not None:
            raise InputError(
                f"{type(self).__name__} has one answer: leave the beam size and outputs out"
            )

    def _first_logits(self, features: Features, call: SequenceCall = SequenceCall()) -> mtf.Tensor:
        """Returns the logits of the first position, {batch, vocab} float32."""
        logits = self.logits(features, call)
        return mtf.gather(logits, 0, logits.shape.get_dim_by_name("length"))
