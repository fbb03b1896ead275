"""The embedding of a model of tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, INDEX, POSITIVE, check_fields
from mtfrun.layers import Embedding, PositionalEmbedding, Positions, TokenVectors
from mtfrun.models.transformer.tokens.token_softmax import OutputLayer, TokenLogits, TokenSoftmax

# Made as `table_class(mesh, vocab, d_model, dtypes, factor=factor, d_embedding=columns)`; if a tied
# softmax is not scaled also with the `initializer` and `logits_scale` of an `Embedding`.
TableClass = Callable[..., TokenVectors]

# Made as `position_class(mesh, max_length, d_model, dtypes)`.
PositionClass = Callable[..., Positions]

# Made as `softmax_class(mesh, num_classes, vocab, d_model, dtypes, tied=embedding, logits=logits)`.
SoftmaxClass = Callable[..., OutputLayer]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenTable:
    """The shape and scale of the embedding table.

    Attributes:
      vocabulary_divisor: the size of "vocab", the dimension of the embedding and the logits, is the
        number of ids rounded up to a multiple of this, so that a mesh axis divides it.
      d_embedding: the columns of a factorised table, Lan et al. 2019, arXiv:1909.11942, section
        3.1: a kernel {d_embedding, d_model} maps its rows to d_model, and another the last
        vectors to d_embedding before a tied softmax. An untied softmax remains {d_model, vocab}, as
        in Chung et al. 2020, arXiv:2010.12821. None: d_model, without maps.
      scaled_vectors: vectors of ids have the factor d_model ** 0.5, or d_embedding ** 0.5, before
        positions are added; Vaswani et al. 2017, arXiv:1706.03762, section 3.4.
      table: the class of the table.
    """

    vocabulary_divisor: int = 1
    d_embedding: int | None = None
    scaled_vectors: bool = False
    table: TableClass = Embedding

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "vocabulary_divisor")
        check_fields(self, COUNT, "d_embedding", optional=True)

    @property
    def columns(self) -> mtf.Dimension | None:
        return None if self.d_embedding is None else mtf.Dimension("d_embedding", self.d_embedding)

    def vocab(self, vocabulary_size: int) -> mtf.Dimension:
        """Returns the dimension of the ids and the padding after them."""
        multiples = -(-vocabulary_size // self.vocabulary_divisor)
        return mtf.Dimension("vocab", multiples * self.vocabulary_divisor)


@dataclasses.dataclass(frozen=True)
class TokenEmbedding(TokenTable, TokenLogits):
    """The embedding and output settings of a model of tokens.

    Attributes:
      max_length: the largest position + 1.
      position: a class, called as `position(mesh, max_length, d_model, dtypes)`, of vectors that
        are added to the ids' vectors; None for attention with positions.
      inputs_position: the same for the inputs of an encoder-decoder, if they have vectors of their
        own, as in BART.
      padding_id: fills up rows, and has no loss; -1 for models of which every id is a token.
      reads_start: a language model reads `start_id` before the first id of a document, and predicts
        it. Otherwise, as in GPT-2, the first id has no loss.
      start_id: the id that a model or a decoder reads before the first token.
      softmax: the class of the last layer, such as `MixtureOfSoftmaxes`.
    """

    d_model: int = 512
    max_length: int = 512
    position: PositionClass | None = PositionalEmbedding
    inputs_position: PositionClass | None = None
    padding_id: int = 0
    reads_start: bool = True
    start_id: int = 0
    softmax: SoftmaxClass = TokenSoftmax

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, INDEX, "start_id")
        check_fields(self, POSITIVE, "logits_cap", optional=True)
        if self.padding_id not in (0, -1):
            raise InputError(f"TokenEmbedding.padding_id={self.padding_id} must be 0 or -1")

    @property
    def width(self) -> mtf.Dimension:
        return mtf.Dimension("d_model", self.d_model)

    def _initializer(self, columns: mtf.Dimension) -> dict[str, mtf.Initializer]:
        """The initializer of small rows, for unit variance of logits that are not scaled."""
        is_small = self.tied_softmax and not self.scaled_softmax
        return {"initializer": mtf.VarianceScaling()([columns], ())} if is_small else {}

    def make_positions(
        self,
        mesh: mtf.Mesh,
        position: PositionClass | None,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> Positions | None:
        """Returns the vectors of positions; learned ones start as large as the ids' vectors."""
        if position is None:
            return None
        is_learned = isinstance(position, type) and issubclass(position, PositionalEmbedding)
        options = self._initializer(self.width) if is_learned and not self.scaled_vectors else {}
        return position(mesh, self.max_length, self.width, dtypes, **options)

    def make_table(
        self,
        mesh: mtf.Mesh,
        vocabulary_size: int,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        for_inputs: bool = False,
    ) -> TokenVectors:
        """Returns the vectors of ids; no softmax is tied to those `for_inputs`."""
        vocab, options = self.vocab(vocabulary_size), dict[str, Any]()
        if not for_inputs and (initial := self._initializer(self.columns or self.width)):
            options = {**initial, "logits_scale": 1.0}
        factor = (self.d_embedding or self.d_model) ** 0.5 if self.scaled_vectors else None
        return self.table(
            *(mesh, vocab, self.width, dtypes), factor=factor, d_embedding=self.columns, **options
        )
