"""Bits per byte, which count the bytes of targets with a loss."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.evaluation import ModelMetrics
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.small_model import LAYOUT, VOCABULARY, small_model

# "inputs end targets end": the targets are 5 and 1 bytes.
ROWS = np.asarray([[7, 1, 9, 9, 9, 9, 9, 1, 0, 0, 0, 0], [7, 7, 1, 9, 1, 0, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize(("targets_only", "num_bytes"), [(True, 6), (False, 9)])
def test_only_bytes_of_targets_with_a_loss_count(
    mesh_shape: str, targets_only: bool, num_bytes: int
) -> None:
    mesh = mtf.Mesh(mesh_shape, LAYOUT)
    model = small_model(mesh, loss_on_targets_only=targets_only)
    bytes_per_id = (np.arange(VOCABULARY) >= 3).astype(np.int32)
    batches = iter([{"targets": ROWS.astype(np.int32)}])
    infeed = Infeed(batches, mesh, {"targets": mtf.convert_to_shape("batch:2;length:12")})
    values = ModelMetrics(model, mesh, bytes_per_id=bytes_per_id)(infeed)
    num_tokens = num_bytes + (2 if targets_only else 4)
    expected = np.float32(values["loss"] * num_tokens / math.log(2) / num_bytes)
    assert_close(np.float32(values["bits_per_byte"]), expected, FLOAT32_MODEL_TOLERANCE)
