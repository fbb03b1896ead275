"""Mesh TensorFlow's training step in microbatches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.models import parity
from tests.layouts import assert_close
from tests.mtf.linear import Linear, X, expected_gradient, linear


@pytest.mark.parametrize("num_splits", [1, 2, 4])
def test_microbatches_sum_to_the_batch_and_concatenate_outputs(num_splits: int) -> None:
    for mesh_shape in ("data:1,model:1", "data:2,model:1", "data:2,model:2"):
        model, x = linear(mesh_shape)

        def model_fn(
            features: dict[str, mtf.Tensor], model: Linear = model
        ) -> dict[str, mtf.Tensor]:
            hidden = model(features["x"])
            return {"loss": mtf.reduce_sum(mtf.square(hidden)), "hidden": hidden}

        def step(
            x: mtf.Tensor, fn: Any = model_fn, model: Linear = model
        ) -> tuple[dict[str, mtf.Tensor], dict[str, mtf.Tensor]]:
            return parity.serialize_training_step(
                {"x": x}, fn, "batch:8", num_splits, model.named_variables()
            )

        gradients, outputs = mtf.function(step)(x)
        loss, expected = expected_gradient(model)
        assert_close(mtf.to_numpy(outputs["loss"]), np.float32(loss))
        assert_close(mtf.to_numpy(outputs["hidden"]), np.tanh(X @ mtf.to_numpy(model.kernel)))
        assert_close(mtf.to_numpy(gradients["kernel"]), expected.astype(np.float32))
        assert_close(mtf.to_numpy(gradients["unused"]), np.zeros([8], np.float32))


def test_microbatches_must_divide_the_batch() -> None:
    _, x = linear("data:1,model:1")
    with pytest.raises(
        mtf.ShapeError, match=r"^3 microbatches do not divide batch:8: take a divisor"
    ):
        parity.serialize_training_step({"x": x}, lambda _: {}, "batch:8", 3, {})
