"""The data, configuration, code and versions that checkpoints save, and their comparison."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mtfrun import processes
from mtfrun.checkpoints import TRAIN_STEPS, Manifest
from mtfrun.configuration.hyperparameters import changes_of_hyperparameters, texts_of_parameters
from mtfrun.data import Data, DataError, Vocabulary
from mtfrun.data.data import IDS, VOCABULARIES
from mtfrun.errors import InputError
from mtfrun.errors.differences import Change, changes, list_changes
from mtfrun.errors.url_secrets import mask_json
from mtfrun.rundir import run_versions
from mtfrun.rundir.commands import changed_modules, code_summary, module_hashes

TrainingHyperparameters = Mapping[str, Mapping[str, str]]
"""Parameters that change the results of a training, see `training_hyperparameters`."""

# Entries of a manifest, and of its configuration.
_DATA, _CONFIGURATION, _CODE, _VERSIONS = "data", "configuration", "code", "versions"
_HYPERPARAMETERS = "numbers"


class ChangedError(InputError):
    """The data, vocabulary or configuration differs from the checkpoint to resume from."""


@dataclasses.dataclass(frozen=True)
class SavedConfiguration:
    """What a training runs with, to be saved in its checkpoints and compared with theirs."""

    data: Data
    hyperparameters: TrainingHyperparameters | None
    train_steps: int
    versions: Mapping[str, str] = dataclasses.field(default_factory=run_versions)
    code: Mapping[str, str] = dataclasses.field(default_factory=code_summary)

    def metadata(self) -> dict[str, object]:
        entries: dict[str, object] = {_VERSIONS: dict(self.versions), _CODE: dict(self.code)}
        if self.hyperparameters is not None:
            entries[_CONFIGURATION] = {
                _HYPERPARAMETERS: self.hyperparameters,
                TRAIN_STEPS: self.train_steps,
            }
        return {**entries, _DATA: fingerprint_of(self.data), TRAIN_STEPS: self.train_steps}

    def check(
        self, manifest: Manifest, *, has_same_variables: bool, accept_changes: bool
    ) -> list[str]:
        """Returns notes on changes since a checkpoint; ChangedError if one changes the results.

        A parameter that follows the number of steps, as the end of a schedule does, may change with
        it: to raise the number of steps is to resume with a longer schedule. Entries that the
        manifest lacks have not changed. If variables differ, the restoration explains it.
        `accept_changes` accepts all but other vocabularies.
        """
        try:
            check_same_vocabularies(manifest, self.data)
            if not accept_changes:
                check_unchanged(_saved_data(manifest), fingerprint_of(self.data), _name(manifest))
        except DataError as error:
            raise ChangedError(str(error)) from error
        if not has_same_variables:
            return []
        notes = []
        saved_versions = manifest.metadata.get(_VERSIONS)  # an imported checkpoint has none
        versions = changes(saved_versions, self.versions) if saved_versions else []
        if versions:
            listed = list_changes(versions, most=len(versions))
            notes.append(f"the versions have changed since {_name(manifest)}: {listed}")
        following, changed = self._changed_hyperparameters(manifest)
        if following:
            notes.append(
                f"the number of steps has changed since {_name(manifest)}, and with it "
                f"{list_changes(following)}"
            )
        modules = changed_modules(manifest.metadata.get(_CODE), self.code)
        different = [
            f"the {what} has changed since {_name(manifest)}: {list_changes(found)}"
            for what, found in (("configuration", changed), ("code", modules))
            if found
        ]
        if different and not accept_changes:
            them = "it" if len(different) == 1 else "them"
            text = "; ".join(different)
            raise ChangedError(f"{text}: restore {them}, or resume with --accept_changes")
        return [*notes, *different]

    def _changed_hyperparameters(self, manifest: Manifest) -> tuple[list[Change], list[Change]]:
        """Returns the parameters that follow the number of steps, and the others."""
        saved, present = manifest.metadata.get(_CONFIGURATION), self.hyperparameters
        if present is None or not isinstance(saved, Mapping) or _HYPERPARAMETERS not in saved:
            return [], []
        differing = changes_of_hyperparameters(saved[_HYPERPARAMETERS], present)
        steps = (str(saved.get(TRAIN_STEPS)), str(self.train_steps))
        following = [x for x in differing if x.name.endswith("steps") and (x.old, x.new) == steps]
        return following, [change for change in differing if change not in following]


def parameter_in(manifest: Manifest, name: str) -> str | None:
    """Returns a parameter that a checkpoint was trained with, as text; None for its default."""
    saved = manifest.metadata.get(_CONFIGURATION)
    given, _ = texts_of_parameters(
        saved.get(_HYPERPARAMETERS) if isinstance(saved, Mapping) else None
    )
    return given.get(name)


def with_parameter(manifest: Manifest, name: str, text: str | None) -> Manifest:
    """Returns a manifest as if the checkpoint was trained with this value, None for the default."""
    saved = manifest.metadata.get(_CONFIGURATION)
    if not isinstance(saved, Mapping) or _HYPERPARAMETERS not in saved:
        return manifest
    given, defaults = texts_of_parameters(saved[_HYPERPARAMETERS])
    given = {n: x for n, x in given.items() if n != name} | ({} if text is None else {name: text})
    entry = {**saved, _HYPERPARAMETERS: {"given": given, "defaults": defaults}}
    return dataclasses.replace(manifest, metadata={**manifest.metadata, _CONFIGURATION: entry})


def check_vocabularies(
    saved: Mapping[str, object], vocabularies: Mapping[str, Vocabulary], checkpoint: str
) -> None:
    """Raises DataError if a checkpoint, with the fingerprint `saved`, had another vocabulary."""
    hashes = saved.get(VOCABULARIES, {})
    if not isinstance(hashes, Mapping):
        return
    present = {name: vocabulary.fingerprint for name, vocabulary in vocabularies.items()}
    for change in changes({name: hashes.get(name) for name in present}, present):
        if change.old is not None:
            vocabulary, remedy = vocabularies[change.name], "name that one, or begin a new run"
            message = f"{checkpoint} was trained with another vocabulary than {vocabulary}"
            raise DataError(f"{message}: {change}; {remedy}")


def check_unchanged(
    saved: Mapping[str, object], present: Mapping[str, object], checkpoint: str
) -> None:
    """Raises DataError if the data have changed since a checkpoint; ignores vocabularies."""
    old, new = (
        {name: value for name, value in fingerprint.items() if name != VOCABULARIES}
        for fingerprint in (saved, present)
    )
    if saved and (differing := changes(old, new, identity=IDS)):
        remedy = "restore them, or resume with --accept_changes"
        changed = list_changes(differing)
        raise DataError(f"the data have changed since {checkpoint}: {changed}: {remedy}")


def check_same_vocabularies(manifest: Manifest, data: Data) -> None:
    """Raises DataError if a checkpoint was trained with another vocabulary."""
    check_vocabularies(_saved_data(manifest), data.vocabularies, _name(manifest))


def check_same_training_data(data: Data) -> None:
    """Raises InputError if the processes train on different data or code. Collective."""
    if processes.count() > 1:
        processes.check_same("training data", fingerprint_of(data), identity=IDS)
        # Constructors may have imported more since the configuration was read.
        processes.check_same("code", module_hashes())


def check_same_split(data: Data, split: str | None) -> None:
    """Raises InputError if vocabularies differ, or texts unless `split` is None. Collective."""
    if processes.count() > 1:
        value = {
            VOCABULARIES: {name: v.fingerprint for name, v in data.vocabularies.items()},
            f"split {split}": {} if split is None else fingerprint_of_split(data, split),
        }
        processes.check_same("vocabulary or data", value, identity=IDS)


def fingerprint_of_split(data: Data, split: str) -> dict[str, dict[str, str]]:
    """Returns the hashes of a split's caches by task."""
    return {cached.title: {IDS: cached.fingerprint} for cached in data.caches(split)}


def fingerprint_of(data: Data) -> Mapping[str, Any]:
    """Returns the fingerprint of the rows of training, as JSON will return it."""
    fingerprint: Mapping[str, Any] = mask_json(data.fingerprint())
    return fingerprint


def _saved_data(manifest: Manifest) -> Mapping[str, Any]:
    saved = manifest.metadata.get(_DATA)
    return saved if isinstance(saved, Mapping) else {}


def _name(manifest: Manifest) -> str:
    return f"ckpt-{manifest.step}"
