"""Which layer and which operation is at fault, of records that are written by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mtfrun.tools.verification.culprit import GRADIENT, OUTPUT, first_layer, first_operation
from mtfrun.tools.verification.layer_records import (
    MODULE_INPUT,
    LayerCall,
    Named,
    OperationCall,
)

TOLERANCE = 1e-4
ONE = [1.0, 2.0]
OTHER = [1.0, 2.5]


def _named(values: Sequence[float] | None) -> Named | None:
    return None if values is None else Named(np.array(values), ("length",))


def _call(
    path: str,
    output: Sequence[float] = ONE,
    of_output: Sequence[float] | None = ONE,
    of_input: Sequence[float] | None = ONE,
) -> LayerCall:
    y = _named(output)
    assert y is not None
    return LayerCall(path, y, _named(of_output), _named(of_input))


def _operation(
    line: str, operands: Sequence[int], output: Sequence[float] = ONE, of_output: object = ONE
) -> OperationCall:
    y = _named(output)
    assert y is not None
    gradient = _named(of_output) if isinstance(of_output, list) else None
    return OperationCall(line, 0, operands, y, gradient)


EXPECTED = [_call("block/norm"), _call("block/dense"), _call("block"), _call("")]


def test_the_first_output_that_differs_is_an_inner_one_s() -> None:
    here = [_call("block/norm"), _call("block/dense", OTHER), _call("block", OTHER), _call("")]
    found = first_layer(here, EXPECTED, TOLERANCE)
    assert found is not None and found[:2] == (OUTPUT, "block/dense")
    assert found[2] == (0.25, "length 1", "2.5", "2")


def test_rounding_is_no_difference() -> None:
    assert first_layer([_call("block/norm", [1.0, 2.0001])], EXPECTED, TOLERANCE) is None
    found = first_layer([_call("block/norm", [1.0, math.nan])], EXPECTED, TOLERANCE)
    assert found is not None and found[2].relative == math.inf


def test_a_layer_that_passes_on_another_gradient_is_at_fault() -> None:
    # The gradient of the output of "norm" is the one that "dense" passes on.
    here = [
        _call("block/norm", of_output=OTHER, of_input=OTHER),
        _call("block/dense", of_input=OTHER),
        _call("block", of_input=OTHER),
        _call(""),
    ]
    found = first_layer(here, EXPECTED, TOLERANCE)
    assert found is not None and found[:2] == (GRADIENT, "block/dense")


def test_small_gradients_beside_large_ones_are_rounding() -> None:
    expected = [_call("a", of_input=[1e-9]), _call("b", of_input=[1e3])]
    here = [_call("a", of_input=[2e-9]), _call("b", of_input=[1e3])]
    assert first_layer(here, expected, TOLERANCE) is None


def test_the_first_operation_that_differs_is_at_fault() -> None:
    expected = [_operation("a.py:1: x", []), _operation("a.py:2: y", [0])]
    here = [_operation("a.py:1: x", []), _operation("a.py:2: y", [0], OTHER)]
    found = first_operation(here, expected, OUTPUT, TOLERANCE)
    assert found is not None and found[0] == "a.py:2: y"
    assert first_operation(expected, expected, OUTPUT, TOLERANCE) is None


def test_another_shape_is_a_difference() -> None:
    expected = [_operation("a.py:1: x", [])]
    found = first_operation([_operation("a.py:1: x", [], [1.0])], expected, OUTPUT, TOLERANCE)
    assert found is not None
    assert str(found[1]) == "differs: shape {length:1}, not shape {length:2}"


def test_an_operation_whose_operand_has_another_gradient_is_at_fault() -> None:
    def calls(gradient: list[float]) -> list[OperationCall]:
        return [
            _operation("a.py:1: x", [MODULE_INPUT], of_output=gradient),
            _operation("a.py:2: w", []),
            _operation("a.py:3: y", [0, 1]),
            _operation("a.py:4: mask", [2], of_output=None),
        ]

    found = first_operation(calls(OTHER), calls(ONE), GRADIENT, TOLERANCE)
    assert found is not None and found[0] == "a.py:3: y"
    # Only the module's input has another one.
    found = first_operation(calls(ONE), calls(ONE), GRADIENT, TOLERANCE)
    assert found is not None and found[0] == "a.py:1: x"
