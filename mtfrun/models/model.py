"""Base classes of models, their losses, and the check for non-finite values."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

import numpy as np

from mtfrun import layers, mtf
from mtfrun.decoding import Decoder
from mtfrun.errors import InputError
from mtfrun.layers import Collector, Metric
from mtfrun.metrics import tags

Features = Mapping[str, mtf.Tensor]


class Loss(NamedTuple):
    """The loss of a batch, with its metrics.

    Attributes:
      total: the trained objective, a sum over positions; the step divides it by `weight`.
      weight: the sum of the weights of all positions.
      metrics: the metrics by name, such as "loss": the cross entropy alone.
      updates: the next values, by path, of variables that the optimizer does not update, such as
        moving averages; the step assigns them last. With microbatches it assigns their mean.
    """

    total: mtf.Tensor
    weight: mtf.Tensor
    metrics: dict[str, Metric]
    updates: dict[str, mtf.Tensor] = {}  # noqa: RUF012 - never changed

    def with_collected(self, collector: Collector) -> Loss:
        """Returns the loss with the losses, metrics and updates of the model's layers."""
        total, layer_losses = self.total, collector.total_loss()
        if layer_losses is not None:
            # Means over the batch: times the weight they are sums, as the total is.
            total = total + layer_losses * self.weight
        _, metrics, updates = collector.contents
        return Loss(total, self.weight, {**self.metrics, **metrics}, {**self.updates, **updates})


class ParameterCount(NamedTuple):
    """The numbers of all parameters, and of those that a token uses.

    Of the parameters of experts only the share of a token's experts is active, see
    `moe.Gate.experts_per_token`.
    """

    total: int
    active: int


@dataclasses.dataclass(frozen=True)
class Reporting:
    """Units and names for reporting the metrics of a model: `Model.reporting`.

    Attributes:
      unit: the noun for the weights of the loss, also in the name of the speed.
      short_unit: the same in a progress line, "tok/s".
      progress: the metrics in a progress line.
      with_perplexity: whether exp(loss) is reported too, see `means`.
    """

    unit: str = "tokens"
    short_unit: str = "tok"
    progress: tuple[str, ...] = ("loss",)
    with_perplexity: bool = True

    @property
    def rate(self) -> str:
        return f"perf/{self.unit}_per_sec"


def means(
    totals: Mapping[str, np.ndarray | float],
    weights: Mapping[str, float],
    *,
    with_perplexity: bool = True,
) -> dict[str, float]:
    """Returns total / weight of every metric; 0 where the weight is 0.

    A metric with a dimension has a value for every entry, see `metric_tags.entries`. The perplexity
    of a "loss" in nats is added: how many equally likely tokens are as hard to guess.

    Examples:
      >>> means({"loss": 8.0, "accuracy": 3.0}, {"loss": 4.0, "accuracy": 4.0})
      {'loss': 2.0, 'accuracy': 0.75, 'perplexity': 7.38905609893065}
    """
    values = tags.entries(
        {name: total / max(weights[name], 1e-9) for name, total in totals.items()}
    )
    if with_perplexity and "loss" in values:
        values["perplexity"] = math.exp(min(values["loss"], 700.0))  # exp(710) overflows
    return values


class Model(mtf.Module, abc.ABC):
    """A module with a loss, which can be trained.

    It is constructed as `model_class(mesh, **arguments)`; its data determines the arguments. It
    calls layers that have losses, metrics or updates of variables with a collector, and
    returns `loss.with_collected(collector)`.

    Attributes:
      optional_features: further features that it reads; None: it ignores unknown features.
      pairs_needed_by: the settings with which a model reads pairs, if only some do.
      reads_outer_batch: whether features may be {outer_batch, batch, ...}.
      padding_id: the id that fills up rows of text and has no loss.
    """

    reporting: ClassVar[Reporting] = Reporting()
    required_features: ClassVar[Collection[str]] = ()
    optional_features: ClassVar[Collection[str] | None] = None
    pairs_needed_by: ClassVar[str] = ""
    reads_outer_batch: ClassVar[bool] = True
    padding_id: int = 0
    adapters: tuple[layers.Adapter, ...] = ()
    _base_paths: frozenset[str] = frozenset()

    def padding_of(self, feature: str) -> int:
        """Returns the id that fills up rows of a feature of ids, by default `padding_id`."""
        return self.padding_id

    @property
    def reads_pairs(self) -> bool:
        """Whether every row must hold pairs of texts, each "inputs end targets end"."""
        return False

    @property
    def metric_shapes(self) -> Mapping[str, mtf.Shape]:
        """The shape of the total of every metric in training, by name.

        By default the scalar "loss" and the metrics of all layers; available once the module has
        its paths. Evaluations may have more metrics.
        """
        return {"loss": mtf.Shape(), **layers.metric_shapes(self)}

    @property
    def updated_paths(self) -> Sequence[str]:
        """The keys of `Loss.updates` in training, by default the updated variables of layers."""
        return layers.updated_paths(self)

    @property
    def vocabulary_sizes(self) -> Mapping[str, int]:
        """The vocabulary size, without padding, by path of variables with a dimension "vocab"."""
        return {}

    def count_parameters(self) -> ParameterCount:
        """Counts the trainable variables, frozen ones included, moving averages not."""
        variables = [v for v in self.named_variables().values() if v.trainable]
        shares = layers.active_shares(self)
        return ParameterCount(
            sum(v.shape.size for v in variables),
            round(sum(v.shape.size * shares.get(v, 1.0) for v in variables)),
        )

    @property
    def num_classes(self) -> int | None:
        """The number of logits that can be predicted, from the first on; None: all."""
        return None

    @abc.abstractmethod
    def loss(self, features: Features, *, training: bool, key: mtf.Key | None = None) -> Loss:
        """Returns the loss of a batch; layers that draw need the key in training."""

    def logits(self, features: Features) -> mtf.Tensor:
        """Returns the logits, float32, without dropout; an InputError without any."""
        raise InputError(f"{type(self).__name__} has no logits")

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        """The sets of features, any of which `logits` reads; by default all required ones."""
        return [self.required_features]

    def allows_padding(self, length: int) -> bool:
        """Returns whether zeros after rows, up to a length, leave the logits as they are."""
        return False

    def target_weights(self, features: Features) -> mtf.Tensor:
        """Returns the weight {batch, length} of every target in the loss, float32, or a scalar."""
        return mtf.constant(next(iter(features.values())).mesh, 1.0)

    def no_metrics(self, mesh: mtf.Mesh, leading: mtf.ShapeLike = ()) -> dict[str, Metric]:
        """Returns zeros for all metrics of training, each with leading dimensions."""
        leading = mtf.convert_to_shape(leading)
        return {
            name: Metric(mtf.zeros(mesh, leading + shape), mtf.zeros(mesh, leading))
            for name, shape in self.metric_shapes.items()
        }

    def add_adapters(self, adapters: Sequence[layers.Adapter]) -> None:
        """Adds adapters once, and freezes the other variables."""
        adapters = tuple(adapters)
        if adapters == self.adapters:
            return
        if self.adapters:
            raise InputError(f"the model has adapters already: {self.adapters}")
        mtf.assign_paths(self)
        base = self.named_variables()
        for adapter in adapters:
            adapter.attach(self)
        mtf.assign_paths(self)
        self.adapters, self._base_paths = adapters, frozenset(base)
        for variable in base.values():
            variable.freeze()

    def base_variables(self) -> dict[str, mtf.Variable]:
        """Returns the variables that no adapter has added, by path."""
        named = self.named_variables()
        return {p: v for p, v in named.items() if not self.adapters or p in self._base_paths}

    def adapter_variables(self) -> dict[str, mtf.Variable]:
        """Returns the variables that adapters have added, by path."""
        base = self.base_variables()
        return {path: v for path, v in self.named_variables().items() if path not in base}

    def saved_variables(self) -> dict[str, mtf.Variable]:
        """Returns the variables in checkpoints: all, or with adapters the trained variables."""
        if not self.adapters:
            return self.named_variables()
        return {**self.adapter_variables(), **self.updated_variables()}

    def updated_variables(self) -> dict[str, mtf.Variable]:
        """Returns the variables that are in `Loss.updates` in training, by path."""
        variables = self.named_variables()
        return {path: variables[path] for path in self.updated_paths}


class TextModel(Model):
    """A model of token ids, which may also generate them; logits have the dimension `vocab`."""

    required_features: ClassVar[Collection[str]] = ("targets",)

    vocab: mtf.Dimension

    @property
    def predicts_first_id(self) -> bool:
        """Whether the first id of a text is predicted, and not part of the prompt."""
        return True

    @property
    def reads_prompts_at_once(self) -> bool:
        """Whether prompts must be read in one pass, as in prefix language models."""
        return False

    @property
    def shares_beginnings(self) -> bool:
        """Whether the beginning of several prompts can be read once, see `Decoder.after`."""
        return False

    @abc.abstractmethod
    def logits(self, features: Features) -> mtf.Tensor:
        """Returns the logits {batch, length, vocab} of the targets, without dropout; float32."""

    def target_nats(self, features: Features) -> mtf.Tensor:
        """Returns -log p(target | inputs, targets before it) {batch, length}, also of padding."""
        ids = mtf.maximum(features["targets"], 0)
        return mtf.sparse_softmax_cross_entropy(self.logits(features), ids, self.vocab)

    def vectors(self, ids: mtf.Tensor) -> mtf.Tensor:
        """Returns the last vectors {batch, length, d_model} of a text's ids {batch, length}."""
        raise InputError(f"{type(self).__name__} has no vectors of texts")

    @abc.abstractmethod
    def decoder(self, features: Features, beam: mtf.Dimension | None = None) -> Decoder:
        """Returns the model as a step function; an InputError if it cannot generate.

        features["targets"] {batch, length} are the prompts, padded with `padding_id`, which
        decoding replaces. `beam` is the dimension of a prompt's hypotheses, if any.
        """


class ImageModel(Model):
    """A model that classifies images; logits are {batch, classes}."""

    required_features: ClassVar[Collection[str]] = ("images", "labels", "weights")

    @property
    def logits_features(self) -> Sequence[Collection[str]]:
        return [["images"]]


class NonFiniteError(InputError):
    """Values of a model, or of its training, are infinite or NaN."""


class FiniteCheck:
    """Checks floating variables on the devices; on a mesh in one program, compiled once."""

    def __init__(self, variables: Mapping[str, mtf.Variable]):
        floating = {path: v for path, v in variables.items() if v.dtype.is_floating}
        # Every device checks the part that it stores; without a gather.
        self._variables = mtf.shard_variables(floating)
        is_distributed = any(v.mesh.is_distributed for v in self._variables.values())
        # On one device tracing a program takes longer than its few operations a variable do.
        self._flags = mtf.function(self._are_finite) if is_distributed else self._are_finite

    def first_non_finite(self) -> str | None:
        """Returns the path of the first variable that is not finite, or None; copies only flags."""
        flags = mtf.to_numpy(self._flags())
        return next((path for path, is_finite in flags.items() if not is_finite), None)

    def _are_finite(self) -> dict[str, mtf.Tensor]:
        return {
            path: mtf.reduce_all(mtf.is_finite(mtf.read_variable(variable)))
            for path, variable in self._variables.items()
        }
