"""Tests of mtfrun.extras.audit.verify.comparison: which differences count."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from mtfrun.experiment import Record
from mtfrun.experiment.model_metrics import Sums
from mtfrun.extras.audit.verify.comparison import (
    DECODES,
    EVALUATION,
    GRADIENTS,
    INITIAL_VALUES,
    LOSS,
    UPDATES,
    Difference,
    compare,
    select_above,
)
from mtfrun.extras.audit.verify.first_difference import GRADIENT, OUTPUT, first_difference
from mtfrun.extras.audit.verify.layer_records import Calls, Named, RecordedCall
from mtfrun.extras.audit.verify.observation import Evaluated, Observation

TOLERANCE = 1e-4
Arrays = Mapping[str, Sequence[float]]


def observation(
    gradients: Sequence[Arrays],
    updates: Sequence[Arrays],
    *,
    losses: Sequence[float] = (5.0, 4.0),
    initial: float | None = None,
    begin: float = 1.0,
    evaluations: Mapping[int, Evaluated] | None = None,
    decodes: Sequence[Record] = (),
) -> Observation:
    """Returns an observation of variables that are `begin` before the first update."""
    values = [{path: np.full(len(x), begin, np.float32) for path, x in updates[0].items()}]
    for update in updates:
        before = values[-1]
        values.append({path: before[path] + np.array(update[path], np.float32) for path in before})
    if initial is not None:
        values[0] = {path: np.full(len(x), initial, np.float32) for path, x in updates[0].items()}
    return Observation(
        "devices",
        "",
        [{"loss": loss} for loss in losses[: len(updates)]],
        [{path: np.array(x, np.float32) for path, x in step.items()} for step in gradients],
        values,
        (),
        evaluations or {},
        decodes,
    )


def above(here: Observation, expected: Observation) -> list[Difference]:
    return select_above(compare(here, expected), TOLERANCE)


def of_gradient(
    here: Sequence[float], expected: Sequence[float], **others: float
) -> list[Difference]:
    """Compares gradients of a variable "a" beside others of one entry; no variable changes."""
    updates = {"a": [0.0] * len(expected)} | {path: [0.0] for path in others}
    beside = {path: [gradient] for path, gradient in others.items()}
    return above(
        observation([{"a": here, **beside}], [updates]),
        observation([{"a": expected, **beside}], [updates]),
    )


def of_update(
    here: Sequence[float], expected: Sequence[float], begin: float = 1.0
) -> list[Difference]:
    """Compares updates of a variable "a"."""
    return above(
        observation([{}], [{"a": here}], begin=begin),
        observation([{}], [{"a": expected}], begin=begin),
    )


def kinds(differences: Sequence[Difference]) -> list[str]:
    return [difference.kind for difference in differences]


def test_the_largest_difference_is_relative_to_the_largest_entry_and_has_its_place() -> None:
    (difference,) = of_gradient([1.0, -2.5, 0.1], [1.0, -2.0, 0.0])
    assert difference == (GRADIENTS, 1, "a", 0.25, "[1]", "-2.5", "-2")


def test_the_gradient_of_a_key_bias_is_rounding() -> None:
    # A softmax does not depend on it: measured of OPT on 2x2 and one device, beside the largest
    # entry of all gradients.
    assert not of_gradient([1.95e-9], [-7.0e-10], embedding=0.131)
    # In bfloat16, of OPT: within the tolerance for bfloat16.
    (difference,) = of_gradient([4.2e-6], [-3.7e-6], embedding=0.085)
    assert difference.relative < 0.05
    # One that is not rounding is at fault.
    assert kinds(of_gradient([1e-6], [0.0], embedding=0.131)) == [GRADIENTS]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_number_that_is_not_finite_differs_from_every_finite_one(wrong: float) -> None:
    (difference,) = of_gradient([1.0, wrong], [1.0, 2.0])
    assert difference.relative == math.inf and difference.place == "[1]"


def test_another_shape_is_a_difference() -> None:
    gradients = {"a": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0]}
    updates = {"a": [0.0, 0.0]}
    here, expected = (observation([gradient], [updates]) for gradient in gradients)
    (difference,) = above(here, expected)
    assert (difference.here, difference.expected) == ("shape [3]", "shape [2]")


def test_an_update_is_compared_entry_by_entry() -> None:
    assert not of_update([0.1, 0.00100005], [0.1, 0.001], 0.0)
    assert kinds(of_update([0.1, 0.0010005], [0.1, 0.001], 0.0)) == [UPDATES]
    # One of 1 % of the largest may be the rounding of large numbers.
    assert not of_update([0.1, 1e-8], [0.1, -1e-8], 0.0)
    unit = float(np.spacing(np.float32(1.0)))
    assert not of_update([3 * unit], [2 * unit])
    assert kinds(of_update([6 * unit], [2 * unit])) == [UPDATES]


@pytest.mark.parametrize(
    ("here", "expected", "differs"),
    [
        (Sums({"loss": np.array(20.001)}, {"loss": 10.0}), 20.0, False),
        (Sums({"loss": np.array(20.01)}, {"loss": 10.0}), 20.0, True),
        (Sums({"loss": np.array(21.0)}, {"loss": 10.0}), 20.0, False),  # a count
        (Sums({"loss": np.array(22.0)}, {"loss": 10.0}), 20.0, True),
    ],
)
def test_metrics_of_evaluations_are_compared_and_counts_may_differ_by_a_tie(
    here: Sums, expected: float, differs: bool
) -> None:
    sums = Sums({"loss": np.array(expected)}, here.weights)
    found = above(
        observation([{}], [{}], evaluations={0: Evaluated(here, None)}),
        observation([{}], [{}], evaluations={0: Evaluated(sums, None)}),
    )
    assert kinds(found) == [EVALUATION] * differs


def test_logits_are_relative_to_the_largest_that_is_not_a_mask() -> None:
    none = Sums({}, {})
    here, expected = (Evaluated(none, np.array([2.0, x, -1e9])) for x in (1.0003, 1.0))
    (difference,) = above(
        observation([{}], [{}], evaluations={0: here}),
        observation([{}], [{}], evaluations={0: expected}),
    )
    assert (difference.name, difference.place) == ("logits", "[1]")
    assert difference.relative == pytest.approx(1.5e-4)


def test_initial_values_and_losses_are_compared() -> None:
    gradients, updates = [{"a": [1.0]}] * 2, [{"a": [0.5]}] * 2
    expected = observation(gradients, updates)
    other = observation(gradients, updates, initial=1.5)
    assert kinds(above(other, expected)) == [INITIAL_VALUES]
    # Relative to the largest loss of all steps.
    almost = observation(gradients, updates, losses=(5.0, 4.0004))
    assert not above(almost, expected)
    other = observation(gradients, updates, losses=(5.0, 4.001))
    (difference,) = above(other, expected)
    assert (difference.kind, difference.step, difference.name) == (LOSS, 2, "loss")


def test_earlier_steps_come_first_and_of_a_step_what_is_computed_first() -> None:
    updates = [{"a": [0.5], "b": [0.5]}] * 2
    expected = observation([{"a": [1.0], "b": [1.0]}] * 2, updates)
    here = observation(
        [{"a": [1.2], "b": [1.1]}, {"a": [5.0], "b": [1.0]}],
        [{"a": [0.4], "b": [0.5]}, {"a": [0.6], "b": [0.5]}],
        losses=(5.0, 7.0),
    )
    order = [difference[:3] for difference in above(here, expected)]
    assert order == [
        (GRADIENTS, 1, "b"),
        (GRADIENTS, 1, "a"),
        (UPDATES, 1, "a"),
        (LOSS, 2, "loss"),
        (GRADIENTS, 2, "a"),
    ]


def _record(text: str, score: float) -> Record:
    return Record({"prompt": "p", "outputs": [{"text": text, "score": score}]}, [text])


def test_decodes_are_equal_where_texts_are_the_same_and_scores_close() -> None:
    gradients, updates = [{"a": [1.0]}], [{"a": [0.5]}]
    expected = observation(gradients, updates, decodes=[_record("x", -20.0), _record("y", -0.1)])
    close = observation(gradients, updates, decodes=[_record("x", -20.001), _record("y", -0.10005)])
    assert not above(close, expected)
    other = observation(gradients, updates, decodes=[_record("z", -20.0), _record("y", -0.2)])
    text, score = above(other, expected)
    assert text == (DECODES, 1, "1, outputs, 0, text", math.inf, "", "'z'", "'x'")
    assert score.name == "2, outputs, 0, score" and score.relative == pytest.approx(0.1)


ONE = [1.0, 2.0]
OTHER = [1.0, 2.5]


def _named(values: Sequence[float]) -> Named:
    return Named(np.array(values), ("length",))


def _call(
    output: Sequence[float] = ONE,
    output_gradient: Sequence[float] = ONE,
    *input_gradients: Sequence[float],
) -> RecordedCall:
    gradients = [_named(x) for x in input_gradients or [ONE]]
    return RecordedCall(_named(output), _named(output_gradient), gradients)


def _calls(**by_path: RecordedCall) -> Calls:
    """Returns calls of modules, of which "block_dense" is the path "block/dense"."""
    return {(name.replace("_", "/"), 0): call for name, call in by_path.items()}


EXPECTED = _calls(block_norm=_call(), block_dense=_call(), block=_call())


def test_the_first_output_that_differs_is_an_inner_one_s() -> None:
    here = _calls(block_norm=_call(), block_dense=_call(OTHER), block=_call(OTHER))
    found = first_difference(here, EXPECTED, TOLERANCE)
    assert found == (OUTPUT, "block/dense", (0.25, "length 1", "2.5", "2"))
    assert first_difference(here, EXPECTED, TOLERANCE, GRADIENT) is None
    other_shape = first_difference({**here, ("block/norm", 0): _call([1.0])}, EXPECTED, TOLERANCE)
    assert other_shape is not None
    assert str(other_shape[2]) == "differs: shape {length:1}, not shape {length:2}"


def test_rounding_is_no_difference() -> None:
    assert first_difference(_calls(block_norm=_call([1.0, 2.0001])), EXPECTED, TOLERANCE) is None
    found = first_difference(_calls(block_norm=_call([1.0, math.nan])), EXPECTED, TOLERANCE)
    assert found is not None and found[2].relative == math.inf


def test_a_call_that_passes_on_another_gradient_is_at_fault() -> None:
    # The gradient of the output of "norm" is the one that "dense" passes on.
    here = _calls(
        block_norm=_call(ONE, OTHER, OTHER),
        block_dense=_call(ONE, ONE, OTHER),
        block=_call(ONE, ONE, OTHER),
    )
    found = first_difference(here, EXPECTED, TOLERANCE)
    assert found is not None and found[:2] == (GRADIENT, "block/dense")
    assert first_difference(here, EXPECTED, TOLERANCE, OUTPUT) is None
    here = _calls(block_norm=_call(ONE, ONE, ONE, OTHER))
    expected = _calls(block_norm=_call(ONE, ONE, ONE, ONE))
    found = first_difference(here, expected, TOLERANCE)
    assert found is not None and found[:2] == (GRADIENT, "block/norm")


def test_small_gradients_beside_large_ones_are_rounding() -> None:
    expected = _calls(a=_call(ONE, ONE, [1e-9]), b=_call(ONE, ONE, [1e3]))
    here = _calls(a=_call(ONE, ONE, [2e-9]), b=_call(ONE, ONE, [1e3]))
    assert first_difference(here, expected, TOLERANCE) is None


def test_calls_of_one_name_are_compared_by_their_number() -> None:
    line = "a.py:1: x"
    expected = {(line, 0): _call(), (line, 1): _call(OTHER)}
    assert first_difference(expected, expected, TOLERANCE) is None
    found = first_difference({**expected, (line, 1): _call()}, expected, TOLERANCE)
    assert found is not None and found[:2] == (OUTPUT, line)
