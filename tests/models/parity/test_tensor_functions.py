"""The largest length of outputs."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models.parity import decode_limits

INPUTS = [[5, 5, 5, 0], [5, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize(("batch_wide", "expected"), [(False, [14, 11, 0]), (True, [14, 14, 0])])
def test_limits_depend_on_the_inputs_and_are_0_for_padding_rows(
    batch_wide: bool, expected: list[int]
) -> None:
    inputs = mtf.import_tf_tensor(mtf.Mesh(), np.asarray(INPUTS, np.int32), "batch:3;length:4")
    limits = decode_limits(inputs, 1.5, 10, batch_wide=batch_wide)
    assert mtf.to_numpy(limits).tolist() == expected
