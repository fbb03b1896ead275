"""A decoder-only Transformer of rows that have a class each, such as images of digits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import Embedding
from mtfrun.models.model import Features
from mtfrun.models.transformer.architectures.decoder_only import DecoderOnly
from mtfrun.models.transformer.architectures.decoder_side import Embed
from mtfrun.models.transformer.stack import Stack
from mtfrun.models.transformer.sublayer import SequenceCall
from mtfrun.models.transformer.tokens.token_embedding import TokenEmbedding
from mtfrun.models.transformer.tokens.token_model import TokenLoss


class ClassConditional(DecoderOnly):
    """Predicts every value of a row from its class and the values before it.

    A trained vector of the class is added to the vectors of all positions, so that positions know
    it whose window of attention does not reach the first one; Parmar et al. 2018,
    arXiv:1802.05751, section 5.2.

    Features: "labels" {batch}, the class of each row, from 0; "targets" {batch, length} int32 and
    "targets_weights" as in `DecoderOnly`. A row is one document.

    Args:
      num_classes: the number of classes.
    """

    required_features: ClassVar[Collection[str]] = ("labels", "targets")
    optional_features: ClassVar[Collection[str]] = ("targets_weights",)

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        num_classes: int,
        *,
        embedding: TokenEmbedding = TokenEmbedding(),
        stack: Callable[..., Stack] = Stack,
        loss: TokenLoss = TokenLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(
            mesh, vocabulary_size, embedding=embedding, stack=stack, loss=loss, dtypes=dtypes
        )
        classes = mtf.Dimension("classes", num_classes)
        self.label_embedding = Embedding(mesh, classes, embedding.width, dtypes)

    @property
    def shares_beginnings(self) -> bool:
        # Rows that begin with the same values may be of different classes.
        return False

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["labels", "targets"]]

    def vectors(self, ids: mtf.Tensor) -> mtf.Tensor:
        raise InputError(f"{type(self).__name__} has no vectors of texts, which have no class")

    def _embedder(self, features: Features, call: SequenceCall) -> Embed:
        embed = super()._embedder(features, call)
        class_vector = self.label_embedding(mtf.to_int32(features["labels"]), call)

        def embed_with_class(ids: mtf.Tensor, positions: mtf.Tensor | None) -> mtf.Tensor:
            x = embed(ids, positions)
            return mtf.add(x, class_vector, output_shape=x.shape)

        return embed_with_class
