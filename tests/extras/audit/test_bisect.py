"""The first step at which two runs part and its cause, of ledgers that are written by hand."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import pytest

from mtfrun.errors import InputError
from mtfrun.extras.audit.bisect import bisect
from mtfrun.extras.audit.ledger import bits_of
from tests.cli.command import error_line, mtfrun_here
from tests.extras.audit.runs import RECORD, VARIABLES, changed, from_step, with_setting, write_run

LOSS = bits_of([4.0])[0]
NORM = bits_of([0.3])[0]
OTHER_DATA = changed(RECORD, "data/texts/TextFiles/ids", "b" * 64)
GIVEN = "hyperparameters/given"


def _rate(name: str = "LEARNING_RATE") -> dict[str, Any]:
    old = f"{name} = {'0.1' if name == 'LEARNING_RATE' else '1e-06'}"
    parameter = {
        "LEARNING_RATE": "optim.Adam.learning_rate",
        "EPSILON": "transformer.RMSNorm.epsilon",
    }[name]
    return with_setting(RECORD, old, f"{name} = 0.2", parameter)


def test_equal_runs_have_no_difference(tmp_path: pathlib.Path) -> None:
    result = bisect(write_run(tmp_path / "a"), write_run(tmp_path / "b", steps=6))
    assert result.difference is None and result.steps == 6
    assert result.lines()[-1] == "6 steps are equal to the bit"
    assert result.as_json()["last_steps"] == (8, 6)


THREADS, NORMALIZATION = "number of threads", "mtfrun.layers.norms.normalization"
ACTIONS = with_setting(RECORD, "actions = ()", "actions = [@mine.Hook()]")
BETA = {**RECORD["hyperparameters"]["given"], "optim.Adam.beta1": "0"}
NORMS = {"gradient_norm": NORM}


@pytest.mark.parametrize(
    ("record", "fields", "what", "kind", "name"),
    [
        (changed(RECORD, "seed", 8), {"key": 5, "batch": 5}, "batch", "randomness (seed)", "seed"),
        (OTHER_DATA, {"batch": 5}, "batch", "data", "texts: TextFiles"),
        (RECORD, {"batch": 5}, "batch", "data", None),
        (changed(RECORD, GIVEN, BETA), NORMS, "gradient norm", "configuration", "optim.Adam.beta1"),
        (RECORD, {"key": 1}, "random key", "randomness (seed)", None),
        *(
            (record, {"loss": LOSS}, "loss", kind, name)
            for record, kind, name in (
                (_rate("EPSILON"), "configuration", "EPSILON"),
                (changed(RECORD, "versions/tensorflow", "2.22.0"), "versions", "tensorflow"),
                (changed(RECORD, f"modules/{NORMALIZATION}", "c" * 64), "code", NORMALIZATION),
                (changed(RECORD, "modules/mine", "c" * 64), "code", "mine"),
                (changed(RECORD, "threads", 1), THREADS, "threads"),
                (changed(RECORD, "environment/OMP_NUM_THREADS", "1"), THREADS, "OMP_NUM_THREADS"),
                (changed(RECORD, "environment/TF_X", "0"), "environment", "TF_X"),
                (changed(RECORD, "processor", "b"), "machine", "processor"),
                (ACTIONS, "actions", "experiment.Training.actions"),
                (RECORD, "code", None),
            )
        ),
    ],
)
def test_the_first_step_and_the_cause_are_named(
    record: Mapping[str, Any],
    fields: Mapping[str, int],
    what: str,
    kind: str,
    name: str | None,
    tmp_path: pathlib.Path,
) -> None:
    other = write_run(tmp_path / "b", record, change=from_step(3, **fields))
    result = bisect(write_run(tmp_path / "a"), other)
    difference = result.difference
    assert difference is not None and difference[:2] == (3, what)
    assert result.likely[0] == kind
    assert [cause.name for cause in result.causes[:1]] == ([] if name is None else [name])


def test_settings_that_change_no_number_come_last(tmp_path: pathlib.Path) -> None:
    record = with_setting(_rate(), "LOG_EVERY = 10", "LOG_EVERY = 1")
    record = changed(record, "versions/tensorflow", "2.22.0")
    other = write_run(tmp_path / "b", record, change=from_step(3, loss=LOSS))
    causes = bisect(write_run(tmp_path / "a"), other).causes
    assert [cause.name for cause in causes] == ["LEARNING_RATE", "tensorflow", "LOG_EVERY"]


@pytest.mark.parametrize(("step", "first"), [(1, "EPSILON"), (2, "LEARNING_RATE")])
def test_the_optimizer_cannot_change_the_loss_of_the_first_step(
    step: int, first: str, tmp_path: pathlib.Path
) -> None:
    norm = "transformer.RMSNorm.epsilon"
    record = with_setting(_rate(), "EPSILON = 1e-06", "EPSILON = 0.1", norm)
    other = write_run(tmp_path / "b", record, change=from_step(step, loss=LOSS))
    assert bisect(write_run(tmp_path / "a"), other).causes[0].name == first


SETTINGS = {
    "transformer.FeedForward.d_ff": "64",
    "optim.Adam.learning_rate": "0.2",
    "optim.LinearWarmup.steps": "30",
    "transformer.RMSNorm.epsilon": "0.1",
    "experiment.Training.batch_size": "4",
    "experiment.Training.frozen": "['embedding']",
}
D_FF, RATE, WARMUP, ROOT, BATCH_SIZE, FROZEN = SETTINGS


def _with_settings(*names: str) -> dict[str, Any]:
    given = {**RECORD["hyperparameters"]["given"], **{name: SETTINGS[name] for name in names}}
    return changed(RECORD, GIVEN, given)


@pytest.mark.parametrize(
    ("names", "step", "fields", "later"),
    [
        ((D_FF, RATE), 0, {}, True),
        ((D_FF, ROOT), 0, {}, False),
        ((D_FF, BATCH_SIZE), 0, {"batch": 5}, True),
        ((BATCH_SIZE, ROOT), 1, {"batch": 5}, True),
        ((ROOT, FROZEN), 1, {"loss": LOSS}, True),
        ((FROZEN, RATE), 1, {"gradient_norm": NORM}, True),
        ((RATE, WARMUP), 2, {"loss": LOSS}, False),
        ((WARMUP, RATE), 6, {"loss": LOSS}, False),
    ],
)
def test_of_two_settings_the_one_that_acts_where_the_runs_part_comes_first(
    names: tuple[str, str],
    step: int,
    fields: Mapping[str, int],
    later: bool,
    tmp_path: pathlib.Path,
) -> None:
    variables = VARIABLES if step else {**VARIABLES, "model/b": 5}
    # The other order in the record.
    record, change = _with_settings(*names[::-1]), from_step(max(step, 1), **fields)
    b = write_run(tmp_path / "b", record, change=change, variables=variables)
    result = bisect(write_run(tmp_path / "a"), b)
    first, second = result.causes
    assert (first.name, second.name) == names
    assert [first.effect, second.effect] == ["likely", "later" if later else "possible"]
    label = "also differs, may act later" if later else "also differs"
    assert result.lines()[-1].startswith(f"{label}: configuration: {names[1]}, ")


def test_what_cannot_explain_the_first_difference_is_not_its_cause(tmp_path: pathlib.Path) -> None:
    b = write_run(tmp_path / "b", _rate(), change=from_step(1, batch=5))
    result = bisect(write_run(tmp_path / "a"), b)
    assert result.likely[0] == "data"
    assert [(x.name, x.effect) for x in result.causes] == [("LEARNING_RATE", "later")]


def test_what_has_no_effect_on_the_training_is_said(tmp_path: pathlib.Path) -> None:
    evaluation = {"validation": {"TextFiles": {"ids": "b" * 64}}}
    base = changed(RECORD, "evaluation/validation/TextFiles/ids", "a" * 64)
    a = write_run(tmp_path / "a", base)
    record = with_setting(base, "LOG_EVERY = 10", "LOG_EVERY = 1")
    record = changed(changed(record, "evaluation", evaluation), "data", OTHER_DATA["data"])
    equal = bisect(a, write_run(tmp_path / "b", record))
    assert (
        equal.difference is None
        and [line[:16] for line in equal.lines()[3:]] == ["without effect: "] * 3
    )
    assert {cause.kind for cause in equal.causes} == {"evaluation data", "data", "settings"}
    # Other rows that no step has read are not why the loss differs.
    parted = bisect(a, write_run(tmp_path / "c", record, change=from_step(3, loss=LOSS)))
    assert parted.likely[0] == "code" and {cause.effect for cause in parted.causes} == {"none"}


def test_a_variable_with_another_initial_value_is_named(tmp_path: pathlib.Path) -> None:
    variables = {**VARIABLES, "model/b": 5}
    result = bisect(write_run(tmp_path / "a"), write_run(tmp_path / "b", variables=variables))
    difference = result.difference
    assert difference is not None and difference.variables == ("model/b",)
    assert result.likely[0] == "initial values"
    line = result.lines()[3]
    assert line.startswith("the initial values differ: ") and line.endswith("; of model/b")


def test_the_values_with_which_a_run_was_resumed_are_a_cause(tmp_path: pathlib.Path) -> None:
    records = [RECORD, changed(RECORD, "step", 4)]
    other = write_run(tmp_path / "b", *records, change=from_step(5, loss=LOSS))
    result = bisect(write_run(tmp_path / "a"), other)
    assert result.likely[0] == "restored values"
    later = write_run(tmp_path / "c", *records, change=from_step(6, loss=LOSS))
    assert not bisect(tmp_path / "a", later).causes
    # Both had the same variables there.
    digests = {4: VARIABLES}
    a = write_run(tmp_path / "with digests", digests=digests)
    b = write_run(tmp_path / "resumed", *records, digests=digests, change=from_step(5, loss=LOSS))
    assert not bisect(a, b).causes


def test_a_variable_that_a_checkpoint_changes_is_named(tmp_path: pathlib.Path) -> None:
    records = [RECORD, changed(RECORD, "step", 4)]
    a = write_run(tmp_path / "a", digests={4: VARIABLES})
    changes = {4: {**VARIABLES, "model/a": 9}}
    b = write_run(tmp_path / "b", *records, digests=changes, change=from_step(5, loss=LOSS))
    result = bisect(a, b)
    difference = result.difference
    assert difference is not None and difference[:2] == (4, "variables")
    assert difference.variables == ("model/a",) and result.likely[0] == "restored values"


def test_the_command_that_computed_the_step_counts(tmp_path: pathlib.Path) -> None:
    resumed = changed(_rate(), "step", 4)
    other = write_run(tmp_path / "b", RECORD, resumed, change=from_step(3, loss=LOSS))
    assert not bisect(write_run(tmp_path / "a"), other).causes
    later = write_run(tmp_path / "c", RECORD, resumed, change=from_step(6, loss=LOSS))
    assert bisect(tmp_path / "a", later).causes[0].name == "LEARNING_RATE"


def test_another_mesh_is_equal_within_a_tolerance(tmp_path: pathlib.Path) -> None:
    a, on_mesh = write_run(tmp_path / "a"), changed(RECORD, "mesh", "data:2")
    close = bits_of([(5.0 - 0.3) * (1 + 1e-4)])[0]
    change = lambda r: r._replace(loss=close) if r.step == 3 else r  # noqa: E731
    result = bisect(a, write_run(tmp_path / "b", on_mesh, change=change))
    assert result.difference is None and not result.is_exact
    assert result.lines()[-1].endswith("within 0.0001 of their size, on other meshes")
    far = bisect(a, write_run(tmp_path / "c", on_mesh, change=from_step(3, loss=LOSS)))
    assert far.likely == ("mesh", "mesh: mesh, data:1 and data:2")


def test_runs_that_cannot_be_compared_are_errors(tmp_path: pathlib.Path) -> None:
    a = write_run(tmp_path / "a")
    with pytest.raises(InputError, match="has no ledger"):
        bisect(a, tmp_path)
    with pytest.raises(InputError, match="have no step in common"):
        bisect(a, write_run(tmp_path / "b", steps=0))
    (a / "commands/0001.json").write_text("{")
    with pytest.raises(InputError, match=r"0001\.json is damaged"):
        bisect(a, a)


def test_two_runs_are_compared(tmp_path: pathlib.Path) -> None:
    a, b = str(write_run(tmp_path / "a")), str(write_run(tmp_path / "b"))
    c = str(write_run(tmp_path / "c", change=from_step(3, batch=5)))
    equal = mtfrun_here("audit", "bisect", a, b)
    assert equal.returncode == 0
    assert equal.stdout.decode().endswith("8 steps are equal to the bit\n")
    different = mtfrun_here("audit", "bisect", a, c)
    assert different.returncode == 5
    assert "\nthe batch of step 3 differs: 0000000000000021, and " in different.stdout.decode()
    (line,) = mtfrun_here("audit", "bisect", a, c, "--json").stdout.splitlines()
    assert json.loads(line)["difference"]["step"] == 3


def test_mistakes_are_one_line(tmp_path: pathlib.Path) -> None:
    a = str(write_run(tmp_path / "a"))
    assert "is not a directory" in error_line(mtfrun_here("audit", "bisect", a, f"{tmp_path}/none"))
    assert f"{tmp_path} has no ledger" in error_line(
        mtfrun_here("audit", "bisect", a, str(tmp_path))
    )
