"""Attention in blocks of an image against numpy, on one device and on meshes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import parity
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

HEIGHT, WIDTH, H_BLOCKS, W_BLOCKS, IO = 2, 3, 2, 4, 4
SHAPE = mtf.convert_to_shape(
    f"batch:2;h_blocks:{H_BLOCKS};w_blocks:{W_BLOCKS};h:{HEIGHT};w:{WIDTH};io:{IO}"
)
WHERE = [
    ("data:1,model:1", ""),
    ("data:2,model:2", "h_blocks:data;w_blocks:model"),
    ("data:2,model:4", "batch:data;w_blocks:model"),
    ("data:2,model:2", "batch:data;heads:model"),
]


def _run(mesh_shape: str, layout: str, mask_right: bool) -> tuple[np.ndarray, Any]:
    """Returns the output and the projections, `AttentionParams` of arrays."""
    mesh = mtf.Mesh(mesh_shape, layout)
    attention = parity.AttentionParameters(
        mesh, mtf.Dimension("heads", 2), SHAPE.dims[-1], mtf.Dimension("kv", 3)
    )
    mtf.initialize(attention, seed=1)
    x = np.random.default_rng(0).standard_normal(SHAPE.to_integer_list, np.float32)
    y = mtf.function(
        lambda x: parity.local_2d_self_attention_spatial_blocks(
            x, attention.projections(), mask_right=mask_right
        )
    )(mtf.import_tf_tensor(mesh, x, SHAPE))
    return mtf.to_numpy(y), mtf.to_numpy(attention.projections())


def _expected(params: Any, mask_right: bool) -> np.ndarray:
    """Computes position by position over the whole image; the softmax includes zeros beyond it."""
    x = np.random.default_rng(0).standard_normal(SHAPE.to_integer_list, np.float32)
    whole = x.transpose(0, 1, 3, 2, 4, 5).reshape(2, H_BLOCKS * HEIGHT, W_BLOCKS * WIDTH, IO)
    padded = np.pad(whole, [(0, 0), (HEIGHT, HEIGHT), (WIDTH, WIDTH), (0, 0)])
    q, k, v = (
        np.einsum("bhwi,nik->bnhwk", array, w)
        for array, w in [(whole, params.wq), (padded, params.wk), (padded, params.wv)]
    )
    y = np.zeros_like(whole)
    for row in range(whole.shape[1]):
        for column in range(whole.shape[2]):
            # In padded coordinates the block of a position begins one block later.
            top, left = row // HEIGHT * HEIGHT, column // WIDTH * WIDTH
            last_row = top + (2 if mask_right else 3) * HEIGHT
            last_column = left + (2 if mask_right else 3) * WIDTH
            visible = [
                (r, c)
                for r in range(top, last_row)
                for c in range(left, last_column)
                if not mask_right or r < row + HEIGHT or (r == row + HEIGHT and c <= column + WIDTH)
            ]
            keys = np.stack([k[:, :, r, c] for r, c in visible], axis=2)
            values = np.stack([v[:, :, r, c] for r, c in visible], axis=2)
            logits = np.einsum("bnk,bnmk->bnm", q[:, :, row, column], keys)
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            mixed = np.einsum("bnm,bnmk->bnk", weights, values)
            y[:, row, column] = np.einsum("bnk,nik->bi", mixed, params.wo)
    blocked = y.reshape(2, H_BLOCKS, HEIGHT, W_BLOCKS, WIDTH, IO)
    return blocked.transpose(0, 1, 3, 2, 4, 5)


@pytest.mark.parametrize("mesh_shape, layout", WHERE)
@pytest.mark.parametrize("mask_right", [False, True])
def test_a_position_attends_to_its_block_and_the_neighbouring_ones(
    mask_right: bool, mesh_shape: str, layout: str
) -> None:
    y, params = _run(mesh_shape, layout, mask_right)
    assert_close(y, _expected(params, mask_right), FLOAT32_MODEL_TOLERANCE)


def test_the_originals_sum_over_rows_has_no_mask() -> None:
    mesh = mtf.Mesh()
    x = mtf.zeros(mesh, SHAPE)
    w = mtf.zeros(mesh, [mtf.Dimension("heads", 2), SHAPE.dims[-1], mtf.Dimension("kv", 3)])
    with pytest.raises(ValueError, match="no rows that mask_right could mask"):
        parity.local_2d_self_attention_spatial_blocks(
            x,
            parity.AttentionParams(w, w, w, w),
            mask_right=True,
            sum_logits_over_rows=True,
        )
