"""Softmaxes over the ids of an adaptive embedding: one of all ids, or one of each cluster."""

from __future__ import annotations

from collections.abc import Sequence

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import NOT_NEGATIVE, check_range
from mtfrun.extras.mesh_tensorflow.zoo.softmaxes.adaptive_embedding import AdaptiveEmbedding
from mtfrun.layers import Call, TokenLosses
from mtfrun.models.transformer.tokens.output_layer import OutputLayer, TokenLogits, mask_padding

# Not "vocab", which a mesh axis may split: it does not divide every part.
_IDS = "vocab_of_parts"


class ClusterSoftmax(OutputLayer):
    """The logits of the ids of a tied `AdaptiveEmbedding`.

    Without `VocabularyClusters.adaptive_softmax` they are the products with the ids' vectors. With
    it p(id) = p(cluster) * p(id | cluster), where the first softmax is over the ids of the first
    cluster and an entry for each further cluster; Grave et al. 2016, arXiv:1609.04309, section 4.2.
    It is exact for every target: the logits of all clusters are computed, for a whole batch at
    once.

    Args:
      tail_z_loss: factor, in training, of logsumexp(logits)**2 of the target's cluster, if that is
        not the first one. `TokenLoss.z_loss` is of the first softmax.
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
                "ClusterSoftmax uses the tables of the embedding: set TokenEmbedding.table="
                "@zoo.AdaptiveEmbedding and tied_softmax=True"
            )
        self._tied, self._clusters, self._tail_z_loss = tied, tied.settings, tail_z_loss
        if num_classes <= self._clusters.first_ids[-1]:
            raise InputError(
                f"VocabularyClusters.cutoffs={list(self._clusters.cutoffs)}: the last cluster has "
                f"padding only, of a vocabulary of {num_classes} ids"
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
        """See `OutputLayer.loss`; the sum has the z-loss of the targets' clusters."""
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
        of_clusters = mtf.slice(first, num_ids, len(tails), _IDS)
        shares = mtf.unstack(of_clusters, of_clusters.shape.get_dim_by_name(_IDS))
        parts, normalisers = [mtf.slice(first, 0, num_ids, _IDS)], []
        for begin, tail, share in zip(self._clusters.cutoffs, tails, shares, strict=True):
            ids = tail.shape.get_dim_by_name(_IDS)
            logits = mask_padding(tail, ids, self.num_classes - begin)
            normalisers.append(mtf.reduce_logsumexp(logits, ids))
            # The softmax of all logits has the sum of the first one: these sum up to exp(share).
            parts.append(logits + (share - normalisers[-1]))
        return mtf.rename_dimension(mtf.concat(parts, _IDS), _IDS, self.vocab.name), normalisers

    def _tail_z_losses(self, targets: mtf.Tensor, normalisers: list[mtf.Tensor]) -> mtf.Tensor:
        """Returns {tokens...}, 0 for targets of the first cluster."""
        cutoffs = self._clusters.cutoffs
        ends = [*cutoffs[1:], self.vocab.size]
        of_clusters = []
        for begin, end, normaliser in zip(cutoffs, ends, normalisers, strict=True):
            is_inside = mtf.logical_and(mtf.greater_equal(targets, begin), mtf.less(targets, end))
            squares = mtf.square(normaliser) * self._tail_z_loss
            of_clusters.append(mtf.where(is_inside, squares, 0.0))
        return mtf.add_n(of_clusters)
