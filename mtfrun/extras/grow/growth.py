"""A larger model from the checkpoint of a run, as a new run."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.checkpoints import TRAIN_STEPS, Manifest
from mtfrun.checkpoints.manifest import DIMENSIONS
from mtfrun.checkpoints.values import CheckpointValues
from mtfrun.configuration import config
from mtfrun.data import Vocabulary
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment, Logits, Training
from mtfrun.experiment.conversion.importer import check_new, replaced_directory
from mtfrun.experiment.runs.opening import ROOTS, Settings, build_training
from mtfrun.experiment.saved_configuration import fingerprint_of
from mtfrun.extras.grow.dimension_map import DimensionMap, placed
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.slots import Slots, grow_slots
from mtfrun.extras.grow.variables import GrownVariables
from mtfrun.rundir import RunDirectory, run_versions
from mtfrun.rundir.copied_files import write_run_files
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from mtfrun.rundir.run_directory import CHECKPOINTS

# Rows of the evaluated split whose logits are compared.
_ROWS = 4


@dataclasses.dataclass(frozen=True)
class GrownRun:
    """A larger model that has not been saved, see `grow`.

    Attributes:
      table: see `GrownVariables.table`.
      difference: the largest difference of the logits and the mean one, relative to the largest
        logit; None where the models cannot read the same rows.
      notes: why the function may have changed.
    """

    step: int
    values: Mapping[str, np.ndarray]
    table: Sequence[tuple[str, str, str, str]]
    slots: Slots
    difference: tuple[float, float] | None
    notes: Sequence[str]
    training: Training
    _config: str
    _metadata: Mapping[str, object]

    def save(self, model_dir: str) -> None:
        """Makes a run with the checkpoint in a new directory, whole or not at all."""
        target = pathlib.Path(RunDirectory(model_dir).path)
        check_new(target, "--model_dir")
        variables = self.training.state.named_variables()
        values, dimensions = {}, {}
        for path, variable in variables.items():
            value = self.values.get(path)
            if value is None:
                value = np.zeros(variable.shape.to_integer_list)
            values[path] = tf.Variable(value.astype(variable.dtype.as_numpy_dtype))
            dimensions[path] = " ".join(variable.shape.dimension_names)
        data = self.training.experiment.data
        with replaced_directory(target) as directory:
            run = RunDirectory(directory)
            run.write_config(self._config)
            write_run_files(directory, data.vocabulary_files(), data.source_summary(), place=target)
            metadata = {**self._metadata, DIMENSIONS: dimensions}
            run.checkpoints().save(self.step, values, metadata=metadata)


def grow(
    former: RunDirectory,
    settings: Settings,
    *,
    checkpoint: str = "latest",
    copies: bool = False,
    noise: float = 0.0,
) -> GrownRun:
    """Returns the model that settings make of a run's configuration, with the run's function.

    Args:
      checkpoint: a step, "best" or "latest".
      copies: new units repeat old ones; by default they are new, and nothing reads them yet.
      noise: the standard deviation of the differences between copies, relative to the values.

    Raises:
      InputError: the new model is not a larger one of the same kind.
    """
    checkpoints = former.checkpoints()
    allowed = Settings(allowed_imports=settings.allowed_imports, modules=settings.modules)
    old, _ = _build(former, allowed)
    new, text = _build(former, settings)
    for training in (old, new):
        if training.experiment.model.adapters:
            raise InputError("adapters do not grow: name the run of their model with --from_run")
    # Averages are read by themselves.
    old.experiment.use_averages = False
    step = old.experiment.restore(former, checkpoints.named_step(checkpoint))

    def read(manifest: Manifest) -> GrownRun:
        stored = CheckpointValues(pathlib.Path(former.path, CHECKPOINTS), manifest)
        return _grow(old, new, text, stored, manifest, copies=copies, noise=noise)

    return checkpoints.read(step, read)


def _build(former: RunDirectory, settings: Settings) -> tuple[Training, str]:
    """Returns a training on one device, of which nothing has values, and its configuration."""
    former.read_config()  # for its error, which names the remedy
    with config.exclusive():
        bindings = config.parse(
            [former.config_path, *settings.files],
            settings.bindings,
            search_paths=settings.search_paths,
            roots=ROOTS,
            allowed_imports=settings.allowed_imports,
            modules=settings.modules,
        )
        text = config.config_text(settings.allowed_imports)
        config.override(mtf.Mesh, shape="data:1", layout="", devices=None)
        config.override(InitCheckpoint, names=None)  # a file that this run does not need
        # In bfloat16 equal functions differ as much as others may.
        config.override(mtf.DTypePolicy, activation="float32")
        return build_training(bindings), text


def _grow(
    old: Training,
    new: Training,
    text: str,
    stored: CheckpointValues,
    manifest: Manifest,
    *,
    copies: bool,
    noise: float,
) -> GrownRun:
    vocabularies = _vocabularies(old.experiment), _vocabularies(new.experiment)
    of_vocabulary = _map_vocabulary(new, *vocabularies)
    models = old.experiment.model, new.experiment.model
    rules = Rules(*models, with_copies=copies, vocabulary=of_vocabulary)
    variables = GrownVariables.of(*models, rules, seed=new.experiment.seed, noise=noise)
    values = {}
    for path, variable in variables.new.items():
        source = variables.origins[path].source
        value = None if source is None else stored[f"model/{source}"]
        values[path] = variables.grow(path, value)
        mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, values[path], variable.shape))
    slots = grow_slots(
        old.state.optimizer,
        new.state.optimizer,
        variables,
        lambda path: stored[f"optimizer/{path}"],
    )
    averages = {}
    for path in new.state.named_averages():
        source = variables.origins[path].source
        is_old = source in old.state.named_averages()
        averages[path] = (
            variables.grow(path, stored[f"averages/{source}"]) if is_old else values[path]
        )
    before, after = vocabularies
    is_same_text = before is None or after is None or is_extended(before, after)
    retained = ("seed", "data_position", "data")
    metadata = {name: manifest.metadata[name] for name in retained if name in manifest.metadata}
    if of_vocabulary is not None:
        metadata["data"] = fingerprint_of(new.experiment.data)
    rounded = {variable.dtype.name for variable in variables.new.values()} - {"float32"}
    return GrownRun(
        step=manifest.step,
        values={
            **{f"model/{path}": value for path, value in values.items()},
            **{f"optimizer/{path}": value for path, value in slots.values.items()},
            **{f"averages/{path}": value for path, value in averages.items()},
            "step": np.asarray(manifest.step),
        },
        table=variables.table(),
        slots=slots,
        difference=_difference(old, new.experiment) if is_same_text else None,
        notes=[*rules.notes, *(f"values are rounded to {name}" for name in sorted(rounded))],
        training=new,
        _config=text,
        _metadata={**metadata, "versions": run_versions(), TRAIN_STEPS: new.options.train_steps},
    )


def _vocabularies(experiment: Experiment) -> Vocabulary | None:
    """Returns the vocabulary of the targets, or of the only feature that has one."""
    vocabularies = experiment.data.vocabularies
    return vocabularies.get("targets") or next(iter(vocabularies.values()), None)


def _map_vocabulary(
    new: Training, before: Vocabulary | None, after: Vocabulary | None
) -> DimensionMap | None:
    if before is None or after is None or before.fingerprint == after.fingerprint:
        return None
    model = new.experiment.model
    shapes = [model.named_variables()[path].shape for path in model.vocabulary_sizes]
    if not shapes:
        raise InputError("AdaptiveEmbedding: tables of clusters do not take another vocabulary")
    return map_vocabulary(before, after, shapes[0].get_dim_by_name("vocab").size)


def _difference(old: Training, new: Experiment) -> tuple[float, float]:
    """Returns the difference of the logits of the first rows that the old run evaluates."""
    experiment, split = old.experiment, old.evaluation.split
    old.evaluation.check_split()
    batch = next(iter(experiment.data.evaluation_subset(_ROWS, 1, split=split)))
    model = experiment.model
    needed = next(names for names in model.logits_features if set(names) <= batch.keys())
    names = {*needed, *(model.optional_features or ())}
    features = {name: batch[name] for name in batch.keys() & names}
    before, after = Logits(experiment)(features), Logits(new)(features)
    classes = min(before.shape[-1], after.shape[-1])
    differences = np.abs(before[..., :classes] - after[..., :classes])
    size = np.abs(before[..., :classes]).max()
    return float(differences.max() / size), float(differences.mean() / size)


def is_extended(old: Vocabulary, new: Vocabulary) -> bool:
    """Returns whether all old ids mean the same in the new vocabulary."""
    return list(new.token_bytes[: old.size]) == list(old.token_bytes) and _specials(
        old
    ) == _specials(new)


def map_vocabulary(old: Vocabulary, new: Vocabulary, rows: int) -> DimensionMap:
    """Returns the map to tables of so many rows, of which those after the ids are padding.

    A new id has the row of the old id of the same bytes, or the mean of the rows of the ids that
    encode its bytes (Gee et al. 2022, "Fast vocabulary transfer", arXiv:2402.09977), or the mean of
    all rows.

    Raises:
      InputError: the new vocabulary has fewer ids.
    """
    if new.size < old.size:
        raise InputError(
            f"the vocabulary would shrink from {old.size} to {new.size} ids: a model can only grow"
        )
    source = np.full(rows, -1)
    everything = range(old.size)
    if is_extended(old, new):
        source[: old.size] = everything
        means = dict.fromkeys(range(old.size, new.size), everything)
        return placed(source, rule="new mean", means=means)
    places = {text: number for number, text in enumerate(old.token_bytes) if text}
    special = dict(zip(_specials(new), _specials(old), strict=True))
    encoded: dict[int, Sequence[int]] = {}
    for number, text in enumerate(new.token_bytes):
        same = places.get(text) if text else special.get(number)
        if same is not None and same >= 0:
            source[number] = same
        else:
            encoded[number] = old.encode(text).tolist() or everything if text else everything
    return placed(source, rule="by their texts", means=encoded)


def _specials(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.pad_id, vocabulary.end_id, vocabulary.unknown_id]
