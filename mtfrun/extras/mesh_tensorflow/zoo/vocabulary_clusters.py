"""Adaptive embeddings and softmax: frequent ids have larger vectors than rare ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, NOT_NEGATIVE, check_range
from mtfrun.layers import Call, Embedding, TokenLosses, TokenVectors
from mtfrun.models.transformer.tokens.token_softmax import OutputLayer, TokenLogits, mask_padding

_FIRST_ROWS = "first_vocab"


@dataclasses.dataclass(frozen=True)
class VocabularyClusters:
    """Clusters of consecutive ids, each with a table; frequent ids come first.

    Baevski and Auli 2018, arXiv:1809.10853, section 3; Grave et al. 2016, arXiv:1609.04309.

    Attributes:
      cutoffs: the first id of each cluster after the first, in increasing order.
      d_embedding: the columns of each cluster's table; a kernel {d_embedding, d_model} projects
        them to d_model if they differ.
      adaptive_softmax: whether the first table ends with a row for each further cluster; see
        `ClusterSoftmax`. Its rows are then called "first_vocab", since a mesh axis that divides
        the other clusters would hardly divide them.
    """

    cutoffs: Sequence[int]
    d_embedding: Sequence[int]
    adaptive_softmax: bool = False

    def __post_init__(self) -> None:
        for size in (*self.cutoffs, *self.d_embedding):
            check_range("a value of VocabularyClusters", size, COUNT)
        if sorted(set(self.cutoffs)) != list(self.cutoffs):
            raise InputError(
                f"VocabularyClusters.cutoffs={list(self.cutoffs)} must be in increasing order"
            )
        if len(self.d_embedding) != len(self.cutoffs) + 1:
            raise InputError(
                f"VocabularyClusters.d_embedding={list(self.d_embedding)} needs "
                f"{len(self.cutoffs) + 1} sizes, one more than cutoffs"
            )
        if self.adaptive_softmax and not self.cutoffs:
            raise InputError("VocabularyClusters.adaptive_softmax needs cutoffs: set some")

    @property
    def first_ids(self) -> Sequence[int]:
        return [0, *self.cutoffs]

    def tables(self, vocab: mtf.Dimension) -> list[mtf.Dimension]:
        """Returns the rows of every table; the last includes the padding of `vocab`."""
        if self.cutoffs and self.cutoffs[-1] >= vocab.size:
            raise InputError(
                f"VocabularyClusters.cutoffs={list(self.cutoffs)} must be below {vocab.size}, the "
                "number of ids with padding"
            )
        ends = [*self.cutoffs, vocab.size]
        rows = [
            mtf.Dimension(vocab.name, end - begin)
            for begin, end in zip(self.first_ids, ends, strict=True)
        ]
        if self.adaptive_softmax:
            rows[0] = mtf.Dimension(_FIRST_ROWS, rows[0].size + len(self.cutoffs))
        return rows


class AdaptiveEmbedding(TokenVectors):
    """An embedding with one table per cluster of `VocabularyClusters`.

    A tied softmax is a `ClusterSoftmax` of the same tables and projections. Initial vectors have
    unit variance.

    Args:
      factor: the factor of the embeddings.
      d_embedding, unscaled: settings for a single table, which raise an InputError.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        vocab: mtf.Dimension,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        clusters: VocabularyClusters,
        factor: float | None = None,
        d_embedding: mtf.Dimension | None = None,
        **unscaled: object,
    ) -> None:
        super().__init__()
        if d_embedding is not None:
            raise InputError(
                f"TokenEmbedding.d_embedding={d_embedding.size} is for one table: use "
                "VocabularyClusters.d_embedding"
            )
        if unscaled:
            raise InputError(
                "TokenEmbedding.scaled_softmax=False is not supported for clusters: set "
                "tied_softmax=False"
            )
        self.settings = clusters
        self._d_model, self._activation = d_model, dtypes.activation
        self.clusters = [
            Embedding(
                *(mesh, rows, d_model, dtypes),
                factor=factor,
                logits_scale=None if size == d_model.size else 1.0,
                d_embedding=None if size == d_model.size else mtf.Dimension("d_embedding", size),
            )
            for rows, size in zip(clusters.tables(vocab), clusters.d_embedding, strict=True)
        ]

    def __call__(self, ids: mtf.Tensor, call: Call) -> mtf.Tensor:
        first_rows = ids
        if self.settings.cutoffs:
            # Later rows of the first table stand for clusters.
            first_rows = mtf.where(mtf.less(ids, self.settings.cutoffs[0]), ids, -1)
        rows = [first_rows, *(ids - first for first in self.settings.cutoffs)]
        # A table has zeros for ids of other clusters.
        vectors = [table(row, call) for table, row in zip(self.clusters, rows, strict=True)]
        return mtf.add_n(vectors)

    @property
    def table(self) -> mtf.Variable:
        """Raises InputError, since there are several."""
        raise InputError(
            "an AdaptiveEmbedding has several tables: set TokenEmbedding.softmax="
            "@zoo.ClusterSoftmax, or tied_softmax=False"
        )

    def vectors_like(self) -> mtf.Variable:
        return self.clusters[0].vectors_like()

    def products(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns each table's logits {..., rows} for x {..., d_model}; see `Embedding.logits`."""
        return [self._products(table, x) for table in self.clusters]

    def _products(self, table: Embedding, x: mtf.Tensor) -> mtf.Tensor:
        if table.projection is None:
            return table.logits(x)
        kernel = table.projection.kernel
        growth = kernel.widths.growth([self._d_model])
        x = mtf.cast(x, self._activation) * ((self._d_model.size / growth) ** -0.5 / growth)
        columns = [*(x.shape - self._d_model), table.columns]
        return table.logits(mtf.einsum([x, mtf.cast(kernel, x.dtype)], output_shape=columns))


# Not "vocab": a mesh axis that splits it need not divide every cluster.
_IDS = "vocab_of_parts"


class ClusterSoftmax(OutputLayer):
    """The logits of a tied `AdaptiveEmbedding`.

    Without `VocabularyClusters.adaptive_softmax` they are products with the embeddings. With it,
    p(id) = p(cluster) * p(id | cluster), where the first softmax is over the ids of the first
    cluster and an entry for each further cluster; Grave et al. 2016, arXiv:1609.04309, section 4.2.
    It is exact: the logits of all clusters are computed, for a whole batch at once.

    Args:
      tail_z_loss: the training coefficient of logsumexp(logits)**2 of a target's cluster after the
        first; `TokenLoss.z_loss` applies to the first softmax.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        vocab: mtf.Dimension,
        d_model: mtf.Dimension,
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
        *,
        tied: AdaptiveEmbedding | None = None,
        logits: TokenLogits = TokenLogits(),
        tail_z_loss: float = 0.0,
    ) -> None:
        super().__init__(mesh, num_classes, vocab, dtypes, logits)
        check_range("ClusterSoftmax.tail_z_loss", tail_z_loss, NOT_NEGATIVE)
        if not isinstance(tied, AdaptiveEmbedding):
            raise InputError(
                "ClusterSoftmax needs TokenEmbedding.table=@zoo.AdaptiveEmbedding and "
                "tied_softmax=True"
            )
        self._tied, self._clusters, self._tail_z_loss = tied, tied.settings, tail_z_loss
        if num_classes <= self._clusters.first_ids[-1]:
            raise InputError(
                f"VocabularyClusters.cutoffs={list(self._clusters.cutoffs)} must be below "
                f"{num_classes}, the size of the vocabulary"
            )
        if self._clusters.adaptive_softmax and logits.softmax_bias:
            raise InputError(
                "an adaptive softmax has no biases: set TokenEmbedding.softmax_bias=False"
            )
        self._add_bias(logits, dtypes)

    def __call__(self, x: mtf.Tensor, call: Call) -> mtf.Tensor:
        return self._logits(x)[0]

    def loss(
        self,
        x: mtf.Tensor,
        targets: mtf.Tensor,
        weights: mtf.Tensor,
        losses: TokenLosses,
        call: Call,
        by_token: Sequence[mtf.Tensor] = (),
    ) -> list[mtf.Tensor]:
        """See `OutputLayer.loss`; includes the z-loss of the targets' clusters."""
        logits, normalisers = self._logits(x)
        objective, *further = losses(logits, targets, *by_token)
        if call.training and self._tail_z_loss and normalisers:
            objective = objective + self._tail_z_losses(targets, normalisers)
        return [mtf.reduce_sum(objective * weights), *further]

    def _logits(self, x: mtf.Tensor) -> tuple[mtf.Tensor, list[mtf.Tensor]]:
        """Returns {..., vocab}, and the logsumexp {...} of every further cluster's logits."""
        products = self._tied.products(x)
        if not self._clusters.adaptive_softmax:
            return self._complete(mtf.concat(products, self.vocab.name)), []
        first, *tails = (
            mtf.rename_dimension(self._limit(mtf.to_float(x)), x.shape[-1].name, _IDS)
            for x in products
        )
        num_ids = self._clusters.cutoffs[0]
        clusters = mtf.slice(first, num_ids, len(tails), _IDS)
        shares = mtf.unstack(clusters, clusters.shape.get_dim_by_name(_IDS))
        parts, normalisers = [mtf.slice(first, 0, num_ids, _IDS)], []
        for begin, tail, share in zip(self._clusters.cutoffs, tails, shares, strict=True):
            ids = tail.shape.get_dim_by_name(_IDS)
            logits = mask_padding(tail, ids, self.num_classes - begin)
            normalisers.append(mtf.reduce_logsumexp(logits, ids))
            # These exponentials sum to exp(share), so that the normaliser stays that of `first`.
            parts.append(logits + (share - normalisers[-1]))
        return mtf.rename_dimension(mtf.concat(parts, _IDS), _IDS, self.vocab.name), normalisers

    def _tail_z_losses(self, targets: mtf.Tensor, normalisers: list[mtf.Tensor]) -> mtf.Tensor:
        """Returns {tokens...}, 0 for targets of the first cluster."""
        cutoffs = self._clusters.cutoffs
        ends = [*cutoffs[1:], self.vocab.size]
        losses = []
        for begin, end, normaliser in zip(cutoffs, ends, normalisers, strict=True):
            is_inside = mtf.logical_and(mtf.greater_equal(targets, begin), mtf.less(targets, end))
            squares = mtf.square(normaliser) * self._tail_z_loss
            losses.append(mtf.where(is_inside, squares, 0.0))
        return mtf.add_n(losses)
