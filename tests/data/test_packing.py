"""Plans of rows."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtfrun.data.rows import packing as packing_module
from mtfrun.data.rows.packing import Plan, pack, stored_plan

# Of the scarcest feature, for texts of about 60 tokens in rows of 512.
LEAST_DENSITY = 0.99
# Of a few hundred texts packed together.
LEAST_DENSITY_OF_FEW = 0.93
# CPU seconds for 200,000 texts; the plan takes a tenth of it on a quiet machine.
SECONDS = {1: 0.5, 2: 2.0}

lengths_and_capacities = st.integers(1, 3).flatmap(
    lambda features: st.tuples(
        st.lists(
            st.lists(st.integers(1, 40), min_size=features, max_size=features),
            min_size=1,
            max_size=80,
        ),
        st.lists(st.integers(1, 30), min_size=features, max_size=features),
    )
)


def sums_of(plan: Plan, sizes: np.ndarray) -> np.ndarray:
    return np.add.reduceat(sizes[plan.examples], plan.row_starts[:-1])


def check(plan: Plan, sizes: np.ndarray, capacities: list[int]) -> None:
    assert np.array_equal(np.sort(plan.examples), np.arange(len(sizes)))
    assert plan.row_starts[0] == 0 and plan.row_starts[-1] == len(sizes)
    assert (np.diff(plan.row_starts) > 0).all()
    assert (sums_of(plan, sizes) <= capacities).all()


@given(lengths_and_capacities)
def test_every_example_is_in_one_row_and_every_row_fits(
    case: tuple[list[list[int]], list[int]],
) -> None:
    lengths, capacities = case
    sizes = np.minimum(lengths, capacities)
    check(pack(np.array(lengths), capacities), sizes, capacities)


@pytest.mark.parametrize("features", [2, 3])
@pytest.mark.parametrize("capacities", [[512, 512, 512], [512, 90, 30], [64, 512, 100]])
def test_many_examples_of_several_features_fit(features: int, capacities: list[int]) -> None:
    rng = np.random.default_rng(features)
    lengths = rng.geometric([0.02, 0.03, 0.05], [5000, 3])[:, :features]
    capacities = capacities[:features]
    check(pack(lengths, capacities), np.minimum(lengths, capacities), capacities)


def naive_best_fit(sizes: list[int], capacity: int) -> int:
    spaces: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [row for row, space in enumerate(spaces) if space >= size]
        if not fitting:
            spaces.append(capacity)
            fitting = [len(spaces) - 1]
        best = min(fitting, key=lambda row: spaces[row])
        spaces[best] -= size
    return len(spaces)


@given(st.lists(st.integers(1, 25), min_size=1, max_size=120), st.integers(1, 25))
def test_as_few_rows_as_when_texts_are_placed_one_by_one(lengths: list[int], capacity: int) -> None:
    sizes = [min(length, capacity) for length in lengths]
    plan = pack(np.array(lengths)[:, np.newaxis], [capacity])
    assert plan.rows == naive_best_fit(sizes, capacity)


def typical_lengths(count: int, capacities: list[int]) -> np.ndarray:
    """Returns lengths [count, features] of translations of about 60 tokens."""
    rng = np.random.default_rng(0)
    first = rng.lognormal(np.log(55), 0.4, count)
    scale = [1.0, *(1.1 * capacity / capacities[0] for capacity in capacities[1:])]
    others = [first * factor * rng.normal(1, 0.2, count) for factor in scale[1:]]
    return np.clip(np.stack([first, *others], axis=1), 2, 600).astype(np.int32)


@pytest.mark.parametrize("capacities", [[512], [512, 512], [512, 114]])
def test_rows_of_typical_texts_are_full(capacities: list[int]) -> None:
    lengths = typical_lengths(200_000, capacities)
    start = time.process_time()
    plan = pack(lengths, capacities)
    seconds = time.process_time() - start
    sizes = np.minimum(lengths, capacities)
    check(plan, sizes, capacities)
    density = (sizes.sum(0) / (plan.rows * np.array(capacities))).max()
    assert density >= LEAST_DENSITY
    assert seconds < SECONDS[len(capacities)]


def test_examples_may_be_packed_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing_module, "_EXAMPLES_PER_STEP", 700)
    capacities = [512, 512]
    lengths = typical_lengths(5000, capacities)
    plan = pack(lengths, capacities)
    check(plan, lengths, capacities)
    assert (lengths.sum(0) / (plan.rows * 512)).max() > LEAST_DENSITY_OF_FEW


def test_neighbours_of_the_source_are_not_put_into_one_row() -> None:
    plan = pack(np.full([1000, 1], 10), [100])
    rows = np.split(plan.examples, plan.row_starts[1:-1])
    assert np.median([np.ptp(row) for row in rows]) > 500


def test_a_plan_is_stored_once(tmp_path: Path) -> None:
    made = []

    def make() -> Plan:
        made.append(1)
        return pack(np.array([[3], [7], [5]]), [10])

    plans = [stored_plan(tmp_path, "10", 3, make) for _ in range(2)]
    assert len(made) == 1
    assert plans[0].examples.tolist() == plans[1].examples.tolist()
    assert plans[0].row_starts.tolist() == plans[1].row_starts.tolist()
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file"])
def test_a_damaged_plan_is_made_again(tmp_path: Path, content: bytes) -> None:
    def make() -> Plan:
        return pack(np.array([[3], [7], [5]]), [10])

    expected = stored_plan(tmp_path, "10", 3, make)
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    plan = stored_plan(tmp_path, "10", 3, make)
    assert plan.examples.tolist() == expected.examples.tolist()
    assert path.read_bytes() != content


@pytest.mark.parametrize(
    ("examples", "row_starts"),
    [
        ([0, 1], [0, 2]),
        ([0, 1, 1], [0, 2, 3]),
        ([0, 1, -3], [0, 2, 3]),
        ([0, 1, 2], [0, 4, 3]),
        ([], []),
    ],
)
def test_an_invalid_plan_is_made_again(
    tmp_path: Path, examples: list[int], row_starts: list[int]
) -> None:
    forged = Plan(np.array(examples, np.int32), np.array(row_starts, np.int64))
    stored_plan(tmp_path, "10", 3, lambda: forged)
    plan = stored_plan(tmp_path, "10", 3, lambda: pack(np.array([[3], [7], [5]]), [10]))
    assert sorted(plan.examples.tolist()) == [0, 1, 2]


def test_the_plan_of_other_lengths_is_made_again(tmp_path: Path) -> None:
    stored_plan(tmp_path, "long", 3, lambda: pack(np.array([[3], [3], [3]]), [10]))
    next(tmp_path.iterdir()).rename(next(tmp_path.iterdir()).with_name("plan-2-short.npz"))
    plan = stored_plan(tmp_path, "short", 3, lambda: pack(np.array([[3], [3], [3]]), [3]))
    assert plan.rows == 3


def test_where_nothing_can_be_written_a_plan_is_made_each_time(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plan = stored_plan(tmp_path / "file", "10", 2, lambda: pack(np.array([[3], [7]]), [10]))
    assert plan.rows == 1
