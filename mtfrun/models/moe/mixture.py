"""The base class of mixtures of experts as sublayers."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun import mtf
from mtfrun.layers import Collector, Metric
from mtfrun.models.moe.experts import Experts
from mtfrun.models.moe.metrics import VISITS, level_shapes
from mtfrun.models.transformer.sequence_call import SequenceCall
from mtfrun.models.transformer.sublayer import Sublayer


class Mixture(Sublayer):
    """A mixture of experts of one or more levels; subclasses route tokens.

    Attributes:
      experts: made by the subclass.
    """

    experts: Experts

    def __init__(
        self,
        mesh: mtf.Mesh,
        d_model: mtf.Dimension,
        *,
        loss_coef: float,
        experts_of_levels: Mapping[str, int],
    ) -> None:
        """Takes the settings of all mixtures, see `MoE1D`, and the numbers of experts.

        `experts_of_levels` has the number of the experts that a level chooses among, by the name of
        the level.
        """
        super().__init__()
        self._mesh = mesh
        self._d_model = d_model
        self._loss_coef = loss_coef
        self._experts_of_levels = experts_of_levels

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """Those of every level, and the tokens by the number of experts that they visit."""
        shapes = {
            f"{level}/{name}": shape
            for level, experts in self._experts_of_levels.items()
            for name, shape in level_shapes(experts).items()
        }
        return {**shapes, "visits": mtf.Shape([VISITS])}

    def _output_shape(self, x: mtf.Tensor) -> mtf.Shape:
        return (x.shape - self._d_model) + self.experts.output_dim

    def _collect(
        self,
        collector: Collector,
        loss: mtf.Tensor,
        levels: Mapping[str, Mapping[str, Metric]],
        visits: Metric,
    ) -> None:
        """Adds the loss of the gates, and the measurements of levels by their name."""
        collector.add_loss(self, self._loss_coef * loss)
        metrics = {f"{level}/{n}": m for level, means in levels.items() for n, m in means.items()}
        collector.add_metrics(self, {**metrics, "visits": visits})


def importance_of_tokens(call: SequenceCall, shape: mtf.Shape) -> mtf.Tensor | None:
    """Returns 1 for tokens and 0 for padding in a shape of groups; None for tokens everywhere."""
    return None if call.nonpadding is None else mtf.reshape(call.nonpadding, shape)
