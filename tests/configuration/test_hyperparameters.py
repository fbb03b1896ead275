"""Which parameters of a configuration change the numbers of a training."""

from __future__ import annotations

import importlib
import inspect
import pathlib
import re
import types
from typing import cast

import pytest

from mtfrun.checkpoints import Manifest
from mtfrun.configuration.hyperparameters import NEUTRAL, NEUTRAL_IN_ALL_CLASSES
from mtfrun.data import Data
from mtfrun.errors import InputError
from mtfrun.experiment.saved_configuration import SavedConfiguration

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_parameters_exist(name: str) -> None:
    package, class_name = name.split(".")
    module = importlib.import_module(f"mtfrun.{package}")
    assert NEUTRAL[name] <= set(inspect.signature(getattr(module, class_name)).parameters)


def test_the_documentation_lists_them() -> None:
    text = (ROOT / "docs/resuming.md").read_text()
    rows = re.findall(r"^\| ([a-z]+\.[A-Z]\w+|every class) \| (.*) \|$", text, re.MULTILINE)
    documented = {name: set(names.split(", ")) for name, names in rows}
    assert documented == {**NEUTRAL, "every class": NEUTRAL_IN_ALL_CLASSES}


def _manifest(given: dict[str, str], defaults: dict[str, str], train_steps: int = 10) -> Manifest:
    configuration = {"numbers": {"given": given, "defaults": defaults}, "train_steps": train_steps}
    return Manifest(7, "ckpt-7", {}, {}, {"configuration": configuration})


def _checked(
    saved: Manifest,
    given: dict[str, str],
    defaults: dict[str, str],
    *,
    accept_changes: bool = False,
) -> list[str]:
    no_data = cast(Data, types.SimpleNamespace(vocabularies={}, fingerprint=dict))
    numbers = {"given": given, "defaults": defaults}
    present = SavedConfiguration(no_data, numbers, 20, {}, {"mtfrun": "2", "mine": "b"})
    return present.check(saved, has_same_variables=True, accept_changes=accept_changes)


def test_a_default_that_one_version_lacks_is_no_change() -> None:
    saved = _manifest({"a.B.x": "1"}, {"a.B.old": "0"})
    assert _checked(saved, {"a.B.x": "1"}, {"a.B.new": "None"}) == []


@pytest.mark.parametrize(
    ("saved", "given", "listed"),
    [
        (_manifest({"a.B.x": "1"}, {}), {"a.B.x": "2"}, "a.B.x 1 -> 2"),
        (_manifest({"a.B.x": "1"}, {}), {}, "a.B.x 1 -> 0"),
        (_manifest({}, {"a.B.x": "0"}), {"a.B.x": "2"}, "a.B.x 0 -> 2"),
        (_manifest({"a.B.x": "0", "a.C.y": "1"}, {}), {}, "a.C.y 1 -> (none)"),
        (_manifest({f"a.B.y{i}": "1" for i in range(5)}, {}), {}, "a.B.y2 1 -> (none); 2 more"),
        # It is not the number of steps that has changed.
        (_manifest({"a.B.end_steps": "9"}, {}), {"a.B.end_steps": "20"}, "a.B.end_steps 9 -> 20"),
        (_manifest({"a.B.batch": "10"}, {}), {"a.B.batch": "20"}, "a.B.batch 10 -> 20"),
    ],
)
def test_other_values_are_changes(saved: Manifest, given: dict[str, str], listed: str) -> None:
    with pytest.raises(InputError, match=re.escape(listed)):
        _checked(saved, given, {} if "a.B.x" in given else {"a.B.x": "0"})


def test_changes_of_code_and_configuration_are_one_error_and_two_notes() -> None:
    saved = _manifest({"a.B.x": "1"}, {})
    saved.metadata["code"] = {"mtfrun": "1", "mine": "b", "not_imported": "c"}
    different = [
        "the configuration has changed since ckpt-7: a.B.x 1 -> 2",
        "the code has changed since ckpt-7: mtfrun 1 -> 2",
    ]
    text = f"{'; '.join(different)}: restore them, or resume with --accept_changes"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        _checked(saved, {"a.B.x": "2"}, {})
    assert _checked(saved, {"a.B.x": "2"}, {}, accept_changes=True) == different


def test_a_schedule_may_follow_the_number_of_steps() -> None:
    (note,) = _checked(_manifest({"a.B.end_steps": "10"}, {}), {"a.B.end_steps": "20"}, {})
    assert note.endswith("and with it a.B.end_steps 10 -> 20")
