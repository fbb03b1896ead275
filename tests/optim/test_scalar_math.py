"""Tests of mtfrun.optim.scalar_math: the accuracy of `one_minus_power`."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.optim.scalar_math import one_minus_power
from tests.layouts import ONE_DEVICE, assert_close


@pytest.mark.parametrize("base", [0.5, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("exponent", [1, 2, 1000, 1_000_000])
def test_one_minus_power_does_not_cancel(base: float, exponent: int) -> None:
    exact = -np.expm1(exponent * np.log(base))
    tensor = mtf.import_tf_tensor(mtf.Mesh(ONE_DEVICE), np.float32(exponent), [])
    assert_close(np.array(one_minus_power(base, exponent)), exact, 1e-12)
    assert_close(mtf.to_numpy(one_minus_power(base, tensor)), exact, 1e-6)
