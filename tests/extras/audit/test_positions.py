"""Positions of rows in the order of training."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mtfrun.extras.audit.positions import find_positions
from tests.data.in_memory import VOCABULARY
from tests.data.test_mixture_data import BATCH, SIZES, _inputs, _rows
from tests.data.test_order import batches


@pytest.mark.parametrize(
    ("sizes", "rates", "max_epochs"),
    [
        ([1000], None, None),
        ([2**16 + 1], None, None),
        ([1], None, None),
        ([70_000], None, None),
        ([50, 400, 7], [1.0, 2.0, 0.3], [None, 2, 3]),
    ],
)
def test_rows_are_found_at_all_their_positions(
    sizes: list[int], rates: list[float] | None, max_epochs: list[int | None] | None
) -> None:
    order, before = batches(sizes, rates=rates, max_epochs=max_epochs, seed=5), 700
    drawn = {
        (component, row): places[selection.rows == row].tolist()
        for component, places, selection in order.rows_at(np.arange(before))
        for row in selection.rows.tolist()
    }
    for component, size in enumerate(sizes):
        rows = np.unique(np.random.default_rng(0).integers(0, size, 40))
        places, positions = find_positions(order, component, rows, before)
        for row in rows.tolist():
            assert positions[places.rows == row].tolist() == drawn.get((component, row), [])


@pytest.mark.parametrize("packed", [pytest.param(True, marks=pytest.mark.slow), False])
def test_examples_are_found_at_all_their_places(packed: bool) -> None:
    rows = _rows(packed=packed, max_epochs={"b": 2})
    batches = rows.train(BATCH, seed=1)
    read = list(itertools.islice(batches, 25))
    number = 0
    for component, (name, size) in enumerate(SIZES.items()):
        places, positions = find_positions(batches, component, np.arange(size), 25 * BATCH)
        columns = (x.tolist() for x in (places.examples, places.segments, positions))
        for example, segment, position in zip(*columns, strict=True):
            row = {n: x[position % BATCH] for n, x in read[position // BATCH].items()}
            segments = row["inputs_segmentation"] if packed else 0 * row["inputs"]
            text = VOCABULARY.decode(row["inputs"][segments == segment])
            assert text == f"{name}{example}"
            number += 1
        assert positions.tolist() == sorted(positions.tolist())
    assert number == len(_inputs(read))
