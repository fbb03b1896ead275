"""The base classes of models: what training, evaluation and decoding need of one."""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

from mtfrun import mtf
from mtfrun.decoding import Decoder
from mtfrun.layers import Metric as Metric
from mtfrun.models.reporting import Reporting

Features = Mapping[str, mtf.Tensor]


class Loss(NamedTuple):
    """What a step differentiates, and what it reports.

    Attributes:
      total: a sum over positions of everything that is trained on; divided by the sum of `weight`
        once, by the step.
      weight: of all positions together.
      metrics: by name, such as "loss": the cross entropy alone.
      updates: what variables become besides what the optimizer does, by path, such as moving
        averages; the step assigns them last, their mean where there are microbatches.
    """

    total: mtf.Tensor
    weight: mtf.Tensor
    metrics: dict[str, Metric]
    updates: dict[str, mtf.Tensor] = {}


class Model(mtf.Module, abc.ABC):
    """What is trained: a module with a loss.

    A subclass has a `loss` and names its metrics; the other members have defaults. It is made as
    `model_class(mesh, **arguments)` with the arguments that its data gives.

    Attributes:
      reporting: how its numbers are told.
      required_features: what a batch must have.
      optional_features: what it may have besides; None: anything, which the model leaves alone.
      pairs_needed_by: of a model that sometimes reads pairs only, the settings that make it so.
      reads_outer_batch: it works with features {outer_batch, batch, ...} as well.
    """

    reporting: ClassVar[Reporting] = Reporting()
    required_features: ClassVar[Collection[str]] = ()
    optional_features: ClassVar[Collection[str] | None] = None
    pairs_needed_by: ClassVar[str] = ""
    reads_outer_batch: ClassVar[bool] = True

    @property
    def reads_pairs(self) -> bool:
        """Whether every row must hold pairs of texts, each "inputs end targets end"."""
        return False

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The shape of the total of every metric in `Loss.metrics` in training, by name.

        Known before the first call, once the module has its paths. Most are scalars. A model that
        does not train may measure more.
        """
        return {"loss": mtf.Shape()}

    @property
    def updated_paths(self) -> Sequence[str]:
        """The keys of `Loss.updates` in training, once the module has its paths."""
        return ()

    @property
    def vocabulary_sizes(self) -> Mapping[str, int]:
        """The number of ids, by the paths of the variables with a dimension "vocab".

        The dimension may be larger: what is beyond is padding.
        """
        return {}

    @abc.abstractmethod
    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the loss of a batch; `key` is what the noise of this step is drawn from."""

    def target_weights(self, features: Features) -> mtf.Tensor:
        """Returns the weight {batch, length} of every target in the loss, or a scalar; float32."""
        return mtf.constant(next(iter(features.values())).mesh, 1.0)

    def no_metrics(self, mesh: mtf.Mesh, leading: mtf.ShapeLike = ()) -> dict[str, Metric]:
        """Returns zeros for all metrics of training, with dimensions before each one's own."""
        leading = mtf.convert_to_shape(leading)
        return {
            name: Metric(mtf.zeros(mesh, leading + shape), mtf.zeros(mesh, leading))
            for name, shape in self.metric_shapes.items()
        }

    def updated_variables(self) -> dict[str, mtf.Variable]:
        """Returns by path the variables that are in `Loss.updates` in training."""
        variables = self.named_variables()
        return {path: variables[path] for path in self.updated_paths}


class TextModel(Model):
    """A model of token ids, which may also generate them.

    Attributes:
      vocab: the dimension of its logits that the ids are.
    """

    required_features: ClassVar[Collection[str]] = ("targets",)

    vocab: mtf.Dimension

    @property
    def reads_prompts_at_once(self) -> bool:
        """Whether prompts must be read in one pass, as those of prefix language models."""
        return False

    @abc.abstractmethod
    def logits(self, features: Features) -> mtf.Tensor:
        """Returns the logits {batch, length, vocab} of the targets, without noise; float32."""

    @abc.abstractmethod
    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns the model as a step function, for the batch and length of features["targets"].

        These are the prompts {batch, length}, 0 from where on a row is to be continued. `beam` is
        the dimension of the hypotheses of a row, if there is one.

        Raises:
          InputError: the model generates nothing.
        """


class ImageModel(Model):
    """A model that says of which class each image is."""

    required_features: ClassVar[Collection[str]] = ("images", "labels", "weights")

    @abc.abstractmethod
    def logits(self, features: Features) -> mtf.Tensor:
        """Returns the logits {batch, classes} of features["images"], without noise; float32."""
