"""The peak of a program follows from the lives of its tensors."""

from __future__ import annotations

import itertools

from mtfrun.tools.planning.memory import peak_of
from mtfrun.tools.planning.program import Block, Operation, Program, TensorType, Value

NUMBERS = itertools.count()


def _value(elements: int, dtype: str = "f32") -> Value:
    return Value(next(NUMBERS), TensorType((elements,), dtype))


def _matrix(*sizes: int) -> Value:
    return Value(next(NUMBERS), TensorType(sizes, "f32"))


def _peak(*operations: Operation, results: tuple[Value, ...] = ()) -> int:
    return peak_of(Program({}, Block((), operations, results), {})).num_bytes


def test_a_tensor_lives_until_its_last_reader() -> None:
    x, y, z = _value(100), _value(50), _value(10)
    made = Operation("Fill", (), (x,))
    reduced = Operation("Sum", (x,), (y,))
    assert _peak(made, reduced, Operation("Sum", (y,), (z,))) == 4 * 150
    assert _peak(made, reduced, Operation("Einsum", (y, x), (z,))) == 4 * 160
    assert _peak(made, reduced, Operation("Sum", (y,), (z,)), results=(x,)) == 4 * 160


def test_an_elementwise_operation_takes_the_memory_of_an_operand_that_ends() -> None:
    x, y, z = _value(100), _value(100), _value(100, "bf16")
    made = Operation("Fill", (), (x,))
    assert _peak(made, Operation("Relu", (x,), (y,))) == 4 * 100
    assert _peak(made, Operation("Relu", (x,), (y,)), results=(x,)) == 4 * 200
    assert _peak(made, Operation("Cast", (x,), (z,))) == 4 * 100 + 2 * 100


def test_an_einsum_copies_what_is_not_in_the_order_of_a_product_of_matrices() -> None:
    x, y, scores = _matrix(8, 3, 5), _matrix(8, 4, 5), _matrix(8, 3, 4)
    made = [Operation("Fill", (), (x,)), Operation("Fill", (), (y,))]
    total = 4 * 8 * (15 + 20 + 12)
    for equation, copied in {
        "bqd,bkd->bqk": 0,
        "bdq,bkd->bqk": 0,
        "qbd,bkd->bqk": 15,
        "bqd,kbd->bqk": 20,
        "qbd,kbd->bqk": 35,
        "bqd,bkd->qbk": 12,
    }.items():
        product = Operation("Einsum", (x, y), (scores,), f'equation = "{equation}"')
        assert _peak(*made, product) == total + 4 * 8 * copied, equation


def test_a_reshape_keeps_its_operand() -> None:
    x, y, z = _value(100), _value(100), _value(10)
    made = Operation("Fill", (), (x,))
    reshaped = Operation("Reshape", (x,), (y,))
    assert _peak(made, reshaped, Operation("Sum", (y,), (z,))) == 4 * 110


def test_a_transpose_that_moves_dimensions_of_size_1_copies_nothing() -> None:
    x, same, moved = _matrix(1, 8, 4), _matrix(8, 1, 4), _matrix(1, 4, 8)
    made = Operation("Fill", (), (x,))
    assert _peak(made, Operation("Transpose", (x,), (same,))) == 4 * 32
    assert _peak(made, Operation("Transpose", (x,), (moved,))) == 4 * 64


def test_values_of_variables_and_constants_do_not_count() -> None:
    handle, x, y = Value(next(NUMBERS), TensorType((), "resource")), _value(100), _value(10)
    assert _peak(Operation("ReadVariableOp", (handle,), (x,)), Operation("Sum", (x,), (y,))) == 40


def test_a_loop_needs_its_own_peak_beside_what_lives_around_it() -> None:
    kept, start, result = _value(100), _value(10), _value(10)
    inside, small, carried = _value(1000), _value(10), _value(10)
    body = Block(
        (carried,),
        (Operation("Fill", (), (inside,)), Operation("Sum", (inside,), (small,))),
        (small,),
    )
    loop = Operation("WhileRegion", (start,), (result,), regions=(Block((carried,), (), ()), body))
    before = (Operation("Fill", (), (kept,)), Operation("Fill", (), (start,)))
    after = Operation("Einsum", (kept, result), (_value(1),))
    # Besides the large tensor: what is kept, the loop's value before, and after.
    assert _peak(*before, loop, after) == 4 * (100 + 10 + 1000 + 10)
