"""The configuration and the versions in the manifests of checkpoints, and their comparison."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.data.fingerprint import Change, changes
from mtfrun.errors import InputError
from mtfrun.rundir import Manifest, package_versions

NumbersOfTraining = Mapping[str, Mapping[str, str]]
"""Parameters that change the numbers of a training, see `configuration.numbers`."""

# Entries of a manifest, and of the first one.
_CONFIGURATION, _VERSIONS = "configuration", "versions"
_NUMBERS, _TRAIN_STEPS = "numbers", "train_steps"
_GIVEN, _DEFAULTS = "given", "defaults"
# Changes that a message lists.
_MOST_CHANGES = 3


def run_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that a run's results depend on."""
    return {"python": platform.python_version(), **package_versions()}


@dataclasses.dataclass(frozen=True)
class TrainedWith:
    """What a training runs with, to be kept in its checkpoints and compared with theirs.

    Attributes:
      numbers: parameters that change the numbers; None if they are not known.
      train_steps: the number of steps of the whole training.
      versions: by package.
    """

    numbers: NumbersOfTraining | None
    train_steps: int
    versions: Mapping[str, str]

    def metadata(self) -> dict[str, object]:
        """Returns the entries of a manifest."""
        entries: dict[str, object] = {_VERSIONS: dict(self.versions)}
        if self.numbers is not None:
            entries[_CONFIGURATION] = {_NUMBERS: self.numbers, _TRAIN_STEPS: self.train_steps}
        return entries

    def check(self, manifest: Manifest, *, fits: bool, accept_changes: bool) -> list[str]:
        """Returns notes on what has changed since a checkpoint.

        A parameter that follows the number of steps, as the end of a schedule does, may change with
        it: to raise the number of steps is to go on with a longer schedule.

        Args:
          manifest: of the checkpoint; one without a configuration has not changed.
          fits: whether the model's variables are those of the checkpoint.
          accept_changes: whether parameters may change that change the numbers.

        Raises:
          InputError: they have changed.
        """
        if not fits:
            return []  # the restoration says what does not fit, and why
        checkpoint = f"ckpt-{manifest.step}"
        notes = []
        saved_versions = manifest.metadata.get(_VERSIONS)  # an imported checkpoint has none
        versions = list(changes(saved_versions, dict(self.versions))) if saved_versions else []
        if versions:
            listed = _listed(versions, most=len(versions))
            notes.append(f"the versions have changed since {checkpoint}: {listed}")
        saved = manifest.metadata.get(_CONFIGURATION)
        if self.numbers is None or not isinstance(saved, Mapping) or _NUMBERS not in saved:
            return notes
        differing = _changes_of_numbers(saved[_NUMBERS], self.numbers)
        old_steps = saved.get(_TRAIN_STEPS)
        following = [change for change in differing if self._follows_steps(change, old_steps)]
        changed = [change for change in differing if change not in following]
        if following:
            notes.append(
                f"the number of steps has changed since {checkpoint}, and with it "
                f"{_listed(following)}"
            )
        if changed:
            what = f"the configuration has changed since {checkpoint}: {_listed(changed)}"
            if not accept_changes:
                raise InputError(f"{what}: restore it, or go on with --accept_changes")
            notes.append(what)
        return notes

    def _follows_steps(self, change: Change, old_steps: object) -> bool:
        """Returns whether a parameter was the number of steps, and is the new one now."""
        return (
            change.name.endswith("steps")
            and change.old == str(old_steps)
            and change.new == str(self.train_steps)
        )


def _changes_of_numbers(saved: Any, present: NumbersOfTraining) -> list[Change]:
    """Returns the parameters that differ.

    One that only one side has counts unless its value is the default there: another version of a
    class may have a parameter more or less.
    """
    old_given, old_defaults = _texts(saved)
    new_given, new_defaults = _texts(present)
    in_old = old_given.keys() | old_defaults.keys()
    in_new = new_given.keys() | new_defaults.keys()
    old = {name: text for name, text in old_defaults.items() if name in in_new} | old_given
    new = {name: text for name, text in new_defaults.items() if name in in_old} | new_given
    return list(changes(old, new))


def _texts(numbers: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the parameters that are given, and those that have their defaults."""
    sides = []
    for name in (_GIVEN, _DEFAULTS):
        values = numbers.get(name) if isinstance(numbers, Mapping) else None
        sides.append(dict(values) if isinstance(values, Mapping) else {})
    return sides[0], sides[1]


def _listed(differing: Sequence[Change], most: int = _MOST_CHANGES) -> str:
    """Returns "a 1 -> 2; b 3 -> 4; 5 more"."""
    listed = "; ".join(f"{c.name} {c.old} -> {c.new}" for c in differing[:most])
    return listed + f"; {len(differing) - most} more" * (len(differing) > most)
