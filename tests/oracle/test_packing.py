"""Packed and padded rows against those of Mesh TensorFlow.

Mesh TensorFlow appends examples in order to the current row while they fit, in batches of at most
`length` examples; which examples share a row is its choice, and what the row then holds is not.
"""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.data.cache.tokens import TokenCache
from mtfrun.data.rows.batches import Texts, collate
from mtfrun.data.rows.order import Selection
from mtfrun.data.rows.packing import Plan, pack
from mtfrun.data.rows.text_rows import PackedRows, PaddedRows
from tests.data.in_memory import token_cache
from tests.oracle.reference_cases import ReferenceCase, reference_cases

CASES = reference_cases("packing")
# Only the ids behind as many as there are zeros are dropped, and zeros have no segment: texts here
# have no zeros.
ZEROS_INSIDE = "pack_zeros_inside"
# Texts that are too long lose their end there, unlike in our rows.
LOSES_ENDS = ("pack_truncation", "pack_or_pad_pad")


def _features(case: ReferenceCase) -> list[str]:
    return [name for name in ("inputs", "targets") if f"in/{name}" in case.arrays]


def _lengths(case: ReferenceCase) -> list[int]:
    return [case.arrays[f"out/{name}"].shape[1] for name in _features(case)]


def _texts(case: ReferenceCase, name: str) -> list[list[int]]:
    """Returns the ids of a feature of every example, as many as are not zero."""
    return [
        row[: np.count_nonzero(row[:size])].tolist()
        for row, size in zip(case.arrays[f"in/{name}"], case.arrays[f"in/{name}_len"], strict=True)
    ]


def _cache(case: ReferenceCase) -> TokenCache:
    names = _features(case)
    return token_cache(list(zip(*(_texts(case, name) for name in names), strict=True)), names)


def _counts(case: ReferenceCase) -> np.ndarray:
    """Returns how many examples each row has, [rows]."""
    segmentation = case.with_role("out").get("targets_segmentation")
    if segmentation is None:  # one example per row
        return np.ones(len(case.arrays["out/targets"]), np.int64)
    return segmentation.max(axis=1).astype(np.int64)


def _plan(case: ReferenceCase) -> Plan:
    counts = _counts(case)
    return Plan(np.arange(counts.sum()), np.concatenate([[0], np.cumsum(counts)]))


@pytest.mark.parametrize("name", CASES)
def test_the_same_texts_in_a_row_make_the_same_row(name: str) -> None:
    case, cache = CASES[name], _cache(CASES[name])
    ends = cache.ends.reshape(-1)
    for column, (feature, length) in enumerate(zip(cache.features, _lengths(case), strict=True)):
        starts = (ends - cache.lengths.reshape(-1)).reshape(cache.ends.shape)[:, column]
        sizes = np.minimum(cache.lengths[:, column], length)
        keeps_end = feature in (case.hparams.get("ensure_eos") or [])
        stops = cache.ends[:, column] if keeps_end else starts + sizes
        texts = Texts(starts, sizes, stops)
        rows = collate(feature, cache.tokens, texts, _counts(case), length)
        outputs = case.with_role("out")
        np.testing.assert_array_equal(rows[feature], outputs[feature])
        position, segmentation = f"{feature}_position", f"{feature}_segmentation"
        if position in outputs:
            np.testing.assert_array_equal(rows[position], outputs[position])
            if name == ZEROS_INSIDE:
                rows[segmentation] *= rows[feature] != 0
            np.testing.assert_array_equal(rows[segmentation], outputs[segmentation])


@pytest.mark.parametrize("name", sorted(CASES.keys() - {ZEROS_INSIDE, *LOSES_ENDS}))
def test_rows_of_a_cache_are_those_rows(name: str) -> None:
    case, cache = CASES[name], _cache(CASES[name])
    outputs = case.with_role("out")
    is_packed = "targets_segmentation" in outputs
    kind: type[PackedRows] | type[PaddedRows] = PackedRows if is_packed else PaddedRows
    rows = kind(cache, _lengths(case))
    if isinstance(rows, PackedRows):
        rows.plan = _plan(case)
    numbers = np.arange(len(rows))
    batch = rows.take(Selection(numbers, np.zeros_like(numbers)))
    assert batch.keys() == outputs.keys()
    for feature, values in batch.items():
        np.testing.assert_array_equal(values, outputs[feature], err_msg=feature)


@pytest.mark.parametrize("name", CASES)
def test_best_fit_needs_no_more_rows(name: str) -> None:
    case, cache = CASES[name], _cache(CASES[name])
    plan = pack(cache.lengths, _lengths(case))
    assert sorted(plan.examples.tolist()) == list(range(len(cache)))
    assert plan.rows <= len(_counts(case))
