"""A larger model from the checkpoint of a run, as a new run."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

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
from mtfrun.extras.grow.dimension_map import DimensionMap
from mtfrun.extras.grow.rules import Rules
from mtfrun.extras.grow.variables import GrownVariables, grow_slots
from mtfrun.rundir import RunDirectory, run_versions
from mtfrun.rundir.copied_files import write_run_files
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from mtfrun.rundir.run_directory import CHECKPOINTS

# Rows of the evaluated split whose logits are compared.
_ROWS = 4
# Entries of the old checkpoint's manifest that the new one has too.
_RETAINED = ("seed", "data_position", "data")


@dataclasses.dataclass(frozen=True)
class GrownRun:
    """A larger model that has not been saved, see `grow`.

    Attributes:
      training: the larger model and its optimizer, with their values.
      table: see `GrownVariables.table`.
      num_slots: the number of slots that come from the run.
      difference: the largest difference of the logits and the mean one, relative to the largest
        logit; None if the ids of the new vocabulary mean other texts.
      notes: reasons why the function may have changed.
    """

    training: Training
    step: int
    table: Sequence[tuple[str, str, str, str]]
    num_slots: int
    difference: tuple[float, float] | None
    notes: Sequence[str]
    _config: str
    _metadata: Mapping[str, object]

    def save(self, model_dir: str) -> None:
        """Writes the run into a new directory, whole or not at all."""
        target = pathlib.Path(RunDirectory(model_dir).path)
        check_new(target, "--model_dir")
        data, state = self.training.experiment.data, self.training.state
        with replaced_directory(target) as directory:
            run = RunDirectory(directory)
            run.write_config(self._config)
            write_run_files(directory, data.vocabulary_files(), data.source_summary(), place=target)
            run.checkpoints().save(self.step, state.storage(), metadata=self._metadata)


def grow(
    former: RunDirectory,
    settings: Settings,
    *,
    checkpoint: str = "latest",
    copies: bool = False,
    noise: float = 0.0,
) -> GrownRun:
    """Returns a larger model: the run's configuration with `settings`, and the run's function.

    Args:
      checkpoint: a step, "best" or "latest".
      copies: new units repeat old ones; by default nothing reads new units yet.
      noise: the standard deviation of the noise that copies get, relative to the values.

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
    # The variables are read, not their averages, which grow by themselves below.
    old.experiment.use_averages = False
    step = old.experiment.restore(former, checkpoints.named_step(checkpoint))

    def read(manifest: Manifest) -> GrownRun:
        stored = CheckpointValues(pathlib.Path(former.path, CHECKPOINTS), manifest)
        return _grow(old, new, text, stored, manifest, copies=copies, noise=noise)

    return checkpoints.read(step, read)


def _build(former: RunDirectory, settings: Settings) -> tuple[Training, str]:
    """Returns an uninitialised training on one device, and its configuration."""
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
        # In bfloat16 rounding would hide a change of the function.
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
    before, after = _vocabulary(old.experiment), _vocabulary(new.experiment)
    ids, metadata = None, {name: x for name, x in manifest.metadata.items() if name in _RETAINED}
    is_same_text = True
    if before is not None and after is not None and before.fingerprint != after.fingerprint:
        ids, is_same_text = _map_ids(before, after, new), is_extended(before, after)
        metadata["data"] = fingerprint_of(new.experiment.data)
    models = old.experiment.model, new.experiment.model
    rules = Rules(*models, with_copies=copies, vocabulary=ids)
    new.state.initialize()
    variables = GrownVariables(*models, rules, seed=new.experiment.seed, noise=noise)
    values = {
        f"model/{path}": variables.grow(path, None if source is None else stored[f"model/{source}"])
        for path, (source, _) in variables.origins.items()
    }
    for path in new.state.named_averages():
        source, value = variables.origins[path].source, values[f"model/{path}"]
        if source in old.state.named_averages():
            value = variables.grow(path, stored[f"averages/{source}"])
        values[f"averages/{path}"] = value
    optimizers = old.state.optimizer, new.state.optimizer
    slots = grow_slots(*optimizers, variables, lambda path: stored[f"optimizer/{path}"])
    values |= {f"optimizer/{path}": value for path, value in slots.items()}
    values["step"] = np.asarray(manifest.step)
    named = new.state.named_variables()
    for path, value in values.items():
        mtf.assign(named[path], mtf.import_tf_tensor(new.state.mesh, value, named[path].shape))
    dimensions = {path: " ".join(x.shape.dimension_names) for path, x in named.items()}
    metadata |= {"versions": run_versions(), TRAIN_STEPS: new.options.train_steps}
    rounded = {variable.dtype.name for variable in variables.new.values()} - {"float32"}
    return GrownRun(
        new,
        manifest.step,
        table=variables.table(),
        num_slots=len(slots),
        difference=_difference(old, new.experiment) if is_same_text else None,
        notes=[*rules.notes, *(f"values are rounded to {name}" for name in sorted(rounded))],
        _config=text,
        _metadata={**metadata, DIMENSIONS: dimensions},
    )


def _vocabulary(experiment: Experiment) -> Vocabulary | None:
    """Returns the vocabulary of the targets, or of the only feature that has one."""
    vocabularies = experiment.data.vocabularies
    return vocabularies.get("targets") or next(iter(vocabularies.values()), None)


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


def _map_ids(old: Vocabulary, new: Vocabulary, training: Training) -> DimensionMap:
    """Returns the map of the tables' rows; rows after the last id are padding.

    A new id has the row of the old id of the same bytes, or the mean of the rows of the ids that
    encode its bytes (Gee et al. 2022, "Fast vocabulary transfer", arXiv:2402.09977), or the mean of
    all rows.
    """
    model = training.experiment.model
    shapes = [model.named_variables()[path].shape for path in model.vocabulary_sizes]
    if not shapes:
        raise InputError("AdaptiveEmbedding: tables of clusters do not take another vocabulary")
    if new.size < old.size:
        sizes = f"from {old.size} to {new.size} ids"
        raise InputError(f"the vocabulary would shrink {sizes}: a model can only grow")
    source = np.full(shapes[0].get_dim_by_name("vocab").size, -1)
    everything = range(old.size)
    if is_extended(old, new):
        source[: old.size] = everything
        means = dict.fromkeys(range(old.size, new.size), everything)
        return DimensionMap(source, rule="new mean", means=means)
    places = {text: number for number, text in enumerate(old.token_bytes) if text}
    special = dict(zip(_specials(new), _specials(old), strict=True))
    encoded: dict[int, Sequence[int]] = {}
    for number, text in enumerate(new.token_bytes):
        same = places.get(text) if text else special.get(number)
        if same is not None and same >= 0:
            source[number] = same
        else:
            encoded[number] = old.encode(text).tolist() or everything if text else everything
    return DimensionMap(source, rule="by their texts", means=encoded)


def _specials(vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.pad_id, vocabulary.end_id, vocabulary.unknown_id]
