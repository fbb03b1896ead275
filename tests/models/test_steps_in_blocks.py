"""Steps over blocks of positions, which differ between rows and may be repeated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, on_mesh
from tests.models.test_reading_prompts import (
    KINDS,
    LENGTH,
    PROMPT_SIZES,
    ROWS,
    TWO_BY_TWO,
    model_of_kind,
    random_ids,
    read_step_by_step,
)

SIZE = 4
# Layers that read positions one after the other only.
WITHOUT_BLOCKS = {
    *("compressed", "masked local"),
    *("convolution", "convolution by predicted filters"),
}


def _logits(mesh: mtf.Mesh, kind: str) -> np.ndarray:
    """Returns the logits [rows, 2 * SIZE, vocab] behind the prompts, from two blocks a row.

    Before that a block with wrong ids has been at the same positions.
    """
    model, ids = model_of_kind(mesh, kind), random_ids()
    batch, block = mtf.Dimension("batch", ROWS), mtf.Dimension("block", SIZE)
    before = np.pad(ids, [(0, 0), (1, 0)])

    def run(features: Any, sizes: mtf.Tensor, *blocks: mtf.Tensor) -> list[mtf.Tensor]:
        one_by_one = model.decoder(features)
        assert one_by_one.in_blocks is not None
        decoder = one_by_one.in_blocks()
        assert decoder.at_once is not None
        decoder = decoder.at_once(int(PROMPT_SIZES.max()), sizes)
        assert decoder.within is not None
        decoder = decoder.within(LENGTH + SIZE)
        state, results = decoder.initial_state, []
        for offset, ids in zip((2, 0, SIZE), blocks, strict=True):
            first = sizes + offset
            at = mtf.add(first, mtf.range(mesh, block), output_shape=[batch, block])
            logits, state = decoder.step(ids, at, state)
            results.append(logits)
        return results[1:]

    def block_at(offset: int) -> mtf.Tensor:
        index = PROMPT_SIZES[:, np.newaxis] + offset + np.arange(SIZE)
        value = np.take_along_axis(before, index, axis=1)
        return mtf.import_tf_tensor(mesh, value, [batch, block])

    blocks = [block_at(9), block_at(0), block_at(SIZE)]
    sizes = mtf.import_tf_tensor(mesh, PROMPT_SIZES.astype(np.int32), [batch])
    compiled = mtf.function(run, jit_compile=mesh.decodes_by_xla)
    results = compiled(on_mesh(mesh, {"targets": ids}), sizes, *blocks)
    return np.concatenate([mtf.to_numpy(x) for x in results], axis=1)


QUICK_CASES = {("local, relative, rotary", ONE_DEVICE)}
CASES = [
    pytest.param(kind, shape, marks=[] if (kind, shape) in QUICK_CASES else [pytest.mark.slow])
    for kind in KINDS
    if kind not in WITHOUT_BLOCKS
    for shape in (ONE_DEVICE, TWO_BY_TWO)
    if shape == TWO_BY_TWO or (kind, shape) in QUICK_CASES
]


@pytest.mark.parametrize("kind, mesh_shape", CASES)
def test_blocks_of_positions_have_the_logits_of_single_steps(kind: str, mesh_shape: str) -> None:
    actual = _logits(mtf.Mesh(mesh_shape, LAYOUT), kind)
    expected = read_step_by_step(kind)
    for row, size in enumerate(PROMPT_SIZES):
        assert_close(actual[row], expected[row, size : size + 2 * SIZE], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("kind", sorted(WITHOUT_BLOCKS))
def test_layers_that_cannot_return_to_a_position_have_no_blocks(kind: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    assert (
        model_of_kind(mesh, kind).decoder(on_mesh(mesh, {"targets": random_ids()})).in_blocks
        is None
    )
