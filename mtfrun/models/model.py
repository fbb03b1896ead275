"""What training, evaluation and decoding need of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import Metric as Metric


class Loss(NamedTuple):
    """What a step differentiates, and what it reports.

    `total` is a sum over positions of everything that is trained on; divided by the sum of `weight`
    once, by the step. `metrics` by name, such as "loss": the cross entropy alone. `updates`: what
    variables become besides what the optimizer does, by path, such as moving averages; the step
    assigns them last, their mean where there are microbatches.
    """

    total: mtf.Tensor
    weight: mtf.Tensor
    metrics: dict[str, Metric]
    updates: dict[str, mtf.Tensor] = {}


class Model(Protocol):
    """A `mtf.Module` that is called as `model_class(mesh, vocabulary_size=...)`.

    metric_names: the keys of `Loss.metrics` in training, known before the first call.

    A model that generates says in `vocab` which dimension of its logits the ids are. Where that has
    more than the ids, `ids_in_use` says how many they are, by the paths of variables.

    A model some of whose metrics have dimensions has their shapes in `metric_shapes`, by name. One
    whose loss has updates has their keys in `updated_paths`, once its paths are known. One that
    does not train on all targets says on which by `target_weights(features)`. One that must read a
    prompt at once says so by `reads_at_once_only`.
    """

    metric_names: Sequence[str]
    vocab: mtf.Dimension

    def named_variables(self) -> dict[str, mtf.Variable]:
        """Returns all variables by path; see `mtf.Module`."""

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        """Returns the loss of a batch; `key` is what the noise of this step is drawn from."""

    def logits(self, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
        """Returns the logits {batch, length, vocab} of the targets, without noise; float32."""

    def decoder(
        self, features: Mapping[str, mtf.Tensor], beam: mtf.Dimension | None = None
    ) -> Decoder:
        """Returns the model as a step function, for the batch and length of features["targets"].

        These are the prompts {batch, length}, 0 from where on a row is to be continued. `beam` is
        the dimension of the hypotheses of a row, if there is one.
        """


def no_metrics(model: Model, mesh: mtf.Mesh, leading: mtf.ShapeLike = ()) -> dict[str, Metric]:
    """Returns zeros for all metrics of a model, with dimensions before each one's own."""
    shapes: Mapping[str, mtf.Shape] = getattr(model, "metric_shapes", {})
    return _zeros({n: shapes.get(n, mtf.Shape()) for n in model.metric_names}, mesh, leading)


def ids_in_use(model: Model) -> Mapping[str, int]:
    """Returns how many ids are in use along "vocab", by the paths of variables that have it."""
    return getattr(model, "ids_in_use", {})


def target_weights(model: Model, features: Mapping[str, mtf.Tensor]) -> mtf.Tensor:
    """Returns the weight {batch, length} of every target in the loss, or the scalar 1; float32."""
    weights: Callable[[Mapping[str, mtf.Tensor]], mtf.Tensor] | None
    weights = getattr(model, "target_weights", None)
    mesh = features["targets"].mesh
    return mtf.constant(mesh, 1.0) if weights is None else weights(features)


def reads_at_once_only(model: Model) -> bool:
    """Returns whether a model cannot read prompts step by step, as prefix language models."""
    return getattr(model, "reads_at_once_only", False)


def updated_variables(model: Model) -> dict[str, mtf.Variable]:
    """Returns by path the variables that are in `Loss.updates` of a model in training."""
    paths: Sequence[str] = getattr(model, "updated_paths", ())
    variables = model.named_variables() if paths else {}
    return {path: variables[path] for path in paths}


def _zeros(
    shapes: Mapping[str, mtf.Shape], mesh: mtf.Mesh, leading: mtf.ShapeLike = ()
) -> dict[str, Metric]:
    leading = mtf.convert_to_shape(leading)
    return {
        name: Metric(mtf.zeros(mesh, leading + shape), mtf.zeros(mesh, leading))
        for name, shape in shapes.items()
    }
