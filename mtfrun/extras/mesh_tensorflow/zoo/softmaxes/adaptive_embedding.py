"""Embeddings that give frequent ids larger vectors than rare ones: clusters of a vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.layers import Call, Embedding, TokenVectors

_FIRST_ROWS = "first_vocab"


@dataclasses.dataclass(frozen=True)
class VocabularyClusters:
    """Clusters of consecutive ids, each with a table; frequent ids come first.

    Baevski and Auli 2018, arXiv:1809.10853, section 3; Grave et al. 2016, arXiv:1609.04309.

    Attributes:
      cutoffs: the first id of every cluster but the first one, in increasing order.
      d_embedding: the columns of each cluster's table, which a kernel {d_embedding, d_model} maps
        to d_model unless that is their number.
      adaptive_softmax: the first table has a row for each further cluster too, after its ids; see
        `ClusterSoftmax`. Its dimension is called "first_vocab" then: an axis that divides the
        ids of the other clusters, and all ids, would hardly divide it.
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
                f"VocabularyClusters.d_embedding={list(self.d_embedding)} needs one size more than "
                f"there are cutoffs, {list(self.cutoffs)}"
            )
        if self.adaptive_softmax and not self.cutoffs:
            raise InputError("VocabularyClusters.adaptive_softmax needs cutoffs: set some")

    @property
    def first_ids(self) -> Sequence[int]:
        return [0, *self.cutoffs]

    def tables(self, vocab: mtf.Dimension) -> list[mtf.Dimension]:
        """Returns the rows of every table; the last one has the padding of `vocab`."""
        if self.cutoffs and self.cutoffs[-1] >= vocab.size:
            raise InputError(
                f"VocabularyClusters.cutoffs={list(self.cutoffs)} must be below the number of ids, "
                f"{vocab.size} with padding"
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
    """Vectors of ids by the tables of `VocabularyClusters`, each by the table of its cluster.

    A tied softmax, a `ClusterSoftmax`, has the same tables and projections. Initial vectors have
    unit variance.

    Args:
      factor: the factor of the vectors of ids.
      d_embedding, unscaled: settings of one table, which are refused.
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
                f"TokenEmbedding.d_embedding={d_embedding.size} is of one table, and clusters have "
                "VocabularyClusters.d_embedding: leave one out"
            )
        if unscaled:
            raise InputError(
                "TokenEmbedding.scaled_softmax=False: a softmax that is tied to clusters is "
                "scaled; leave it out, or set tied_softmax=False"
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
            # The rows after these are not of ids.
            first_rows = mtf.where(mtf.less(ids, self.settings.cutoffs[0]), ids, -1)
        rows = [first_rows, *(ids - first for first in self.settings.cutoffs)]
        # A table has zeros for ids of other clusters.
        vectors = [table(row, call) for table, row in zip(self.clusters, rows, strict=True)]
        return mtf.add_n(vectors)

    @property
    def table(self) -> mtf.Variable:
        """Raises InputError: a softmax that is tied to one table has none here."""
        raise InputError(
            "an AdaptiveEmbedding has several tables: set TokenEmbedding.softmax="
            "@zoo.ClusterSoftmax, or tied_softmax=False"
        )

    def vectors_like(self) -> mtf.Variable:
        return self.clusters[0].vectors_like()

    def products(self, x: mtf.Tensor) -> list[mtf.Tensor]:
        """Returns the products {..., rows} of x {..., d_model} with the vectors of every table.

        They have the factor d_model ** -0.5, see `Embedding.logits`.
        """
        return [self._products(table, x) for table in self.clusters]

    def _products(self, table: Embedding, x: mtf.Tensor) -> mtf.Tensor:
        if table.projection is None:
            return table.logits(x)
        kernel = table.projection.kernel
        growth = kernel.widths.growth([self._d_model])
        x = mtf.cast(x, self._activation) * ((self._d_model.size / growth) ** -0.5 / growth)
        columns = [*(x.shape - self._d_model), table.columns]
        return table.logits(mtf.einsum([x, mtf.cast(kernel, x.dtype)], output_shape=columns))
