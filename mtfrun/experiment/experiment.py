"""Experiments: a model and its data on a mesh, and the use of the model beyond training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from mtfrun import mtf, optim
from mtfrun.checkpoints import VariableSpec
from mtfrun.checkpoints.restore import check_compatible
from mtfrun.data import Batches, Data, Infeed, host_of, split_batch
from mtfrun.errors import InputError, LayoutError
from mtfrun.errors.checks import INDEX, check_range
from mtfrun.experiment.adapters import (
    SavedAdapters,
    check_base,
    hash_of_base,
    load_base,
    saved_adapters,
)
from mtfrun.experiment.records import Progress, Record, Source, require
from mtfrun.experiment.saved_configuration import check_same_vocabularies
from mtfrun.files import RunDirError
from mtfrun.files.errors import IncompatibleError
from mtfrun.models import FiniteCheck, Model, NonFiniteError
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.init_checkpoint import InitCheckpoint

ALL_DATA = (
    "choose @data.LanguageModelData(), @data.DelimitedPairsData(), "
    "@data.SequenceToSequenceData(), @data.ImageData(), @vision.SegmentationData() or your class"
)


@dataclasses.dataclass(frozen=True)
class Inference:
    """Use of a trained model by the commands `decode` and `score`, and by evaluators.

    The program calls a subclass with `experiment`; gin sets the other fields. This base class
    refuses all inputs: the model is only trained and evaluated.

    Attributes:
      settings: names of the settings that flags of the command line change, such as "top_k".
      writes_files: whether records have files, so that their lines must be in a file too.
    """

    settings: ClassVar[Sequence[str]] = ()
    writes_files: ClassVar[bool] = False
    experiment: Experiment

    @property
    def example(self) -> str:
        """The command, with flags, to try a trained model; empty for none."""
        return ""

    def with_settings(self, settings: Mapping[str, Any]) -> Self:
        """Returns a copy with other values of some settings; InputError if it lacks one."""
        for name in settings:
            if name not in self.settings:
                available = ", ".join(f"--{setting}" for setting in self.settings)
                remedy = f"it has {available}" if available else "leave it out"
                raise InputError(f"{type(self).__name__} has no setting --{name}: {remedy}")
        return self._replace_settings(settings) if settings else self

    def for_single_inputs(self) -> Self:
        """Returns a copy whose programs compute one input at a time; by default itself."""
        return self

    def read(self, source: Source) -> Sized:
        """Returns the inputs of a source, for `records`; InputError if they are of another kind."""
        raise self._unsupported("decode")

    def records(self, inputs: Any, progress: Progress | None = None) -> Sequence[Record]:
        """Returns the record of each input, in order; NonFiniteError for an infinite or NaN one."""
        raise self._unsupported("decode")

    def report(self) -> str | None:
        """Returns a line about the computations since the last call; None for nothing to say."""
        return None

    def pairs(self, split: str) -> Sequence[tuple[bytes, bytes]]:
        """Returns the (input, target) pairs of a split; InputError if it cannot score pairs."""
        raise self._unsupported("score pairs")

    def scores(
        self, pairs: Sequence[tuple[bytes, bytes]], *, with_end: bool = True
    ) -> Sequence[Record]:
        """Returns the likelihood of each target, in order; errors as `pairs` and `records`.

        `with_end`: whether the end of a text counts.
        """
        raise self._unsupported("score pairs")

    def _unsupported(self, what: str) -> InputError:
        model = type(self.experiment.model).__name__
        remedy = "Experiment.inference says what to do with it, such as @experiment.Decoding"
        return InputError(f"{type(self).__name__} of {model} does not {what}: {remedy}")

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        """Returns a copy with other values of some of `self.settings`, by default its fields."""
        return dataclasses.replace(self, **settings)


class RowFeatures(Protocol):
    """Features that the rows of a training have in addition to the data's.

    Attributes:
      features: their shapes in a row, by name.
    """

    @property
    def features(self) -> Mapping[str, mtf.Shape]: ...

    def add_to(self, batches: Batches) -> None:
        """Adds the features to the rows of training batches."""


class Experiment:
    """A model and its data on a mesh.

    Args:
      model: a class, called as `model(mesh, **data.model_arguments())`: with the `vocabulary_size`
        for text, with `num_classes` and the shape of an `image` for images.
      inference: use of the model beyond training; a class, called with the experiment.
      seed: seed of initial values, the order of the data and dropout.
      init_checkpoint: source of the initial values of a new run, and of the values to evaluate or
        decode with if there is no run.
      use_averages: whether to evaluate and decode with the averages of the weights, if there are
        any.
      outer_batch: number of parts into which a batch is split; above 1 the features of training and
        evaluation are {outer_batch, batch, ...}, for a mesh that splits a batch over two axes. The
        results do not change.
      base_sizes: sizes of the dimensions that grow with the width, in the model for which the
        learning rate was chosen: initial values, learning rates and logits follow by muP, see
        `optim.set_base_sizes`. None for no such rules.

    Attributes:
      model, inference: the objects that the two classes make.
      row_features: further features of the rows of training.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        model: Callable[..., Model],
        data: Data,
        inference: Callable[[Experiment], Inference] = Inference,
        seed: int = 0,
        init_checkpoint: InitCheckpoint | None = None,
        *,
        use_averages: bool = True,
        outer_batch: int = 1,
        base_sizes: Mapping[str, int] | None = None,
    ):
        if not isinstance(mesh, mtf.Mesh):
            raise InputError(f"Experiment.mesh must be a mesh: @mtf.Mesh(), not {mesh!r}")
        require(data, Data, "Experiment.data", ALL_DATA)
        check_range("Experiment.seed", seed, INDEX)
        if isinstance(model, type):  # before it is called with the arguments of other data
            check_features(model, data)
        self.mesh = mesh
        self.data = data
        self.seed = seed
        self.init_checkpoint = init_checkpoint
        self.use_averages = use_averages
        self._outer_batch = outer_batch
        self.row_features: list[RowFeatures] = []
        self.model = model(mesh, **data.model_arguments())
        check_features(type(self.model), data)
        check_rows(self.model, data)
        if base_sizes:
            optim.set_base_sizes(self.model, base_sizes)
        if outer_batch != 1 and not self.model.reads_outer_batch:
            what = f"outer_batch={outer_batch}: {type(self.model).__name__}"
            raise InputError(f"{what} reads batches of one dimension: set it to 1")
        self.inference = inference(self)

    def check_batch(self, batch_size: int) -> None:
        """Raises LayoutError by misspelt rules, or unless the mesh can split such a batch."""
        for shape in self.feature_shapes(batch_size).values():
            self.mesh.partition(shape)
            self.mesh.check_parts(shape.get_dim_by_name("batch"))
        # Modules of the user may have further dimensions once they are computed.
        modules = {type(module).__module__ for module in self.model.named_modules().values()}
        if all(name.startswith("mtfrun.") for name in modules):
            for message in self.mesh.misspelt_rules():
                raise LayoutError(message)

    def rows_for(self, batch_size: int) -> int:
        """Returns the least batch size, `batch_size` or more, that the mesh can split."""
        parts = self.mesh.num_splits(mtf.Dimension("batch", batch_size))
        return math.ceil(batch_size / parts) * parts

    def feature_shapes(self, batch_size: int) -> dict[str, mtf.Shape]:
        """Returns the shapes of the features of a batch of training."""
        shapes = self._row_shapes(batch_size)
        if self._outer_batch == 1:
            return shapes
        return {name: split_batch(shape, self._outer_batch) for name, shape in shapes.items()}

    def train_infeed(self, batch_size: int) -> Infeed:
        """Returns endless training batches; every process reads only its devices' rows."""
        shapes = self._row_shapes(batch_size)
        host = host_of(self.mesh, next(iter(shapes.values())), self._outer_batch)
        batches = self.data.train(batch_size, seed=self.seed, host=host)
        for further in self.row_features:
            further.add_to(batches)
        return Infeed(batches, self.mesh, shapes, self._outer_batch, host=host)

    def _row_shapes(self, batch_size: int) -> dict[str, mtf.Shape]:
        shapes = self.data.shapes(batch_size)
        rows = mtf.Shape([mtf.Dimension("batch", batch_size)])
        for further in self.row_features:
            shapes |= {name: rows + shape for name, shape in further.features.items()}
        return shapes

    def evaluation_infeed(
        self, batch_size: int, split: str, max_batches: int | None, *, data: Data | None = None
    ) -> Infeed:
        """Returns the batches of a split, once; see `Data.evaluation_subset` and `Data.by_task`."""
        data = data or self.data
        if max_batches is None:
            batches = data.evaluation(batch_size, split=split)
        else:
            batches = data.evaluation_subset(batch_size, max_batches, split=split)
        return Infeed(
            batches,
            self.mesh,
            self.data.shapes(batch_size),
            self._outer_batch,
            with_shorter_rows=True,
        )

    def require_finite(self, numbers: np.ndarray | float, what: str) -> None:
        """Raises NonFiniteError unless the model's outputs, `what` in the message, are finite."""
        if np.isfinite(numbers).all():
            return
        variable = FiniteCheck(self.model.named_variables()).first_non_finite()
        cause = f": so is variable {variable}" if variable else ""
        what = f"{what} are infinite or not a number{cause}"
        raise NonFiniteError(f"{what}; name an earlier checkpoint with --checkpoint=STEP")

    def restore(self, run: RunDirectory, step: int | None, base: str | None = None) -> int:
        """Restores a checkpoint, the newest for None, and returns its step.

        With `use_averages` the weights are restored from their averages, if there are any.
        DataError if it was trained with another vocabulary. Of a run of adapters, their model is
        read from `base`, a run or a checkpoint, or from where they began, `init_checkpoint` or the
        place that the checkpoint names. RunDirError if `base` is given for another run.
        """
        saved = self._prepare(run, step)
        if saved is None and base is not None:
            raise RunDirError(f"{run.path} is not a run of adapters: name it as --model_dir")
        if saved is not None:
            source = self.init_checkpoint
            if base is not None:
                source = dataclasses.replace(source or InitCheckpoint(), path=base)
            try:
                load_base(self.model, source, self.seed, saved.base)
            except IncompatibleError:
                if base is not None:  # another model than the configuration's
                    check_base("", saved.base, base)
                raise
        return self._restore_saved(run, step)

    def restore_adapters(self, run: RunDirectory, step: int | None = None) -> int:
        """Adds the adapters of a run for this model, else RunDirError; returns their step."""
        saved = self._prepare(run, step)
        if saved is None:
            raise RunDirError(f"{run.path} is not a run of adapters: name it as --model_dir")
        check_base(hash_of_base(self.model), saved.base, "the model")
        return self._restore_saved(run, step)

    def _restore_saved(self, run: RunDirectory, step: int | None) -> int:
        named = self.model.saved_variables()
        mtf.initialize(self.model, self.seed)
        variables = {f"model/{path}": variable.variable for path, variable in named.items()}
        averages = {}
        if self.use_averages:
            averages = {f"model/{path}": f"averages/{path}" for path in named}
        manifest = run.checkpoints().restore(
            step,
            variables,
            subset=True,
            preferred=averages,
            check=lambda manifest: check_same_vocabularies(manifest, self.data),
        )
        return manifest.step

    def _prepare(self, run: RunDirectory, step: int | None) -> SavedAdapters | None:
        """Adds the adapters of a checkpoint, which it returns, and compares the variables' sizes.

        Before the model needs memory: a configuration from elsewhere may claim any size.
        """
        manifest = run.checkpoints().manifest(step)
        if manifest is None:
            return None
        if (saved := saved_adapters(manifest)) is not None:
            self.model.add_adapters(saved.adapters)
        check_same_vocabularies(manifest, self.data)
        specs = {
            f"model/{path}": VariableSpec(tuple(x.stored_shape.to_integer_list), x.dtype.name)
            for path, x in self.model.saved_variables().items()
        }
        check_compatible(
            f"{run.path}/checkpoints/ckpt-{manifest.step}", manifest.variables, specs, subset=True
        )
        return saved

    def restore_without_run(self) -> int:
        """Initialises the model from `init_checkpoint` and returns the step of its checkpoint."""
        mtf.initialize(self.model, self.seed)
        report = None
        if self.init_checkpoint is not None:
            report = self.init_checkpoint(self.model.named_variables(), self.model.vocabulary_sizes)
        if report is None:
            example = "--gin.INIT_CHECKPOINT=\"'/path/model.ckpt-1000'\""
            raise RunDirError(f"there is no model: give --model_dir, or a checkpoint: {example}")
        return report.step


def check_features(model: type[Model], data: Data) -> None:
    """Raises InputError unless the data have the features that a model reads, and no others."""
    features = data.features
    missing = [name for name in model.required_features if name not in features]
    read = {*model.required_features, *(model.optional_features or ())}
    surplus = [name for name in features if name not in read]
    if missing:
        what = f"reads {quote_names(missing)}"
    elif surplus and model.optional_features is not None:
        what = f"reads {quote_names(model.required_features)} and not {quote_names(surplus)}"
    else:
        return
    remedy = "choose Experiment.data that has these features, or another Experiment.model"
    if data.remedy and not read.isdisjoint(features):
        remedies = {"": data.remedy} if isinstance(data.remedy, str) else data.remedy
        fitting = (text for name, text in remedies.items() if not name or name in read)
        remedy = next(fitting, remedy)
    makes = f"{type(data).__name__} makes {quote_names(features)}"
    raise InputError(f"{model.__name__} {what}, and {makes}: {remedy}")


def check_rows(model: Model, data: Data) -> None:
    """Raises InputError if a model reads rows of pairs, or of a padding, that the data lacks."""
    for name, vocabulary in data.vocabularies.items():
        padding_id = model.padding_of(name)
        if vocabulary.pad_id != padding_id:
            remedy = (
                vocabulary.padding_remedy
                or f"TokenEmbedding.padding_id={vocabulary.pad_id}, or choose another vocabulary"
            )
            raise InputError(
                f"{vocabulary!r} pads rows of {name} with {vocabulary.pad_id}, and "
                f"{type(model).__name__} takes {padding_id} for padding: set {remedy}"
            )
    if model.reads_pairs and not data.has_rows_of_pairs:
        setting = f" ({model.pairs_needed_by})" if model.pairs_needed_by else ""
        remedy = "change these, or " if setting else ""
        raise InputError(
            f"{type(model).__name__} reads pairs of texts{setting}, which {type(data).__name__} "
            f"does not make: {remedy}use pairs and --gin_file=data/delimited_pairs.gin behind the "
            "file of the pairs"
        )


def quote_names(names: Iterable[str], separator: str = ", ") -> str:
    """Returns names in quotation marks, for a message."""
    return separator.join(f'"{name}"' for name in names)
