"""The fingerprint of the data in the manifests of checkpoints, and its comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping

from mtfrun.data import Data
from mtfrun.data.fingerprint import check_unchanged, check_vocabularies
from mtfrun.rundir import Manifest

# The entry of a manifest.
DATA = "data"


def fingerprint_of(data: Data) -> Mapping[str, object]:
    """Returns what determines the rows of training, as JSON will return it."""
    fingerprint: Mapping[str, object] = json.loads(json.dumps(data.fingerprint()))
    return fingerprint


def check_same_vocabularies(manifest: Manifest, data: Data) -> None:
    """Raises DataError if a checkpoint was trained with another vocabulary."""
    check_vocabularies(_saved(manifest), data.vocabularies, _name(manifest))


def check_same_data(manifest: Manifest, data: Data, *, accept_changes: bool) -> None:
    """Raises DataError if a checkpoint was trained on other data.

    Args:
      manifest: of the checkpoint.
      data: of the run.
      accept_changes: whether all but the vocabularies may have changed.
    """
    check_same_vocabularies(manifest, data)
    if not accept_changes:
        check_unchanged(_saved(manifest), fingerprint_of(data), _name(manifest))


def _saved(manifest: Manifest) -> Mapping[str, object]:
    saved = manifest.metadata.get(DATA)
    return saved if isinstance(saved, Mapping) else {}


def _name(manifest: Manifest) -> str:
    return f"ckpt-{manifest.step}"
