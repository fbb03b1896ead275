"""A few steps of Adafactor on whole models give the losses and variables of the original."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import FOLDER, reference_cases
from tests.oracle.reference_models import (
    mesh_for,
    on_mesh,
    reference_value,
    transformer_model,
    with_weights,
)

# The third trained model keeps its variables in bfloat16.
CASES = {name: reference_cases("transformer")[name] for name in ("lm", "t5_1_1")}


@pytest.mark.parametrize(
    "several",
    [False, pytest.param(True, marks=pytest.mark.slow)],
    ids=["one device", "several"],
)
@pytest.mark.parametrize("name", CASES)
def test_steps_of_adafactor(name: str, several: bool) -> None:
    case = CASES[name]
    mesh = mesh_for(case, several)
    model = with_weights(transformer_model(mesh, case), case)
    variables = model.named_variables()
    optimizer = optim.Adafactor(
        learning_rate=0.05, min_dim_size_to_factor=case.hparams.get("min_dim_size_to_factor", 128)
    )
    optimizer.init(variables)
    for path, slot in optimizer.named_slots().items():
        slot.initialize(seed=0, path=path)
    names = [key for key in case.with_role("in") if key in ("inputs", "targets")]
    features = on_mesh(mesh, {key: case.arrays[f"in/{key}"] for key in names})
    positions = case.arrays["in/targets"].size

    @mtf.function
    def step(features: dict[str, mtf.Tensor], number: mtf.Tensor) -> mtf.Tensor:
        def mean() -> tuple[mtf.Tensor, mtf.Tensor]:
            total = model.loss(features, training=True, key=mtf.random_key(0)).total
            return total / positions, total / positions

        (_, loss), gradients = mtf.value_and_gradients(mean, variables)
        for variable, value in optimizer.update(gradients, number).items():
            mtf.assign(variable, value)
        return loss

    expected = case.arrays["out/train_losses"]
    losses = [
        step(features, mtf.constant(mesh, number, dtype=tf.int32))
        for number in range(len(expected) - 1)
    ]
    # The embedding and the softmax are in the checkpoint only.
    folder = FOLDER / case.hparams["checkpoint"]
    checkpoint = tf.train.load_checkpoint(str(folder / f"model.ckpt-{len(losses)}"))
    after = {key: checkpoint.get_tensor(key) for key in case.with_role("w")}
    for key, value in case.with_role("out").items():
        if key.startswith("after_training/"):
            np.testing.assert_array_equal(after[key.removeprefix("after_training/")], value)
    assert_close(np.stack(mtf.to_numpy(losses)), expected[:-1], FLOAT32_MODEL_TOLERANCE)
    for path, variable in variables.items():
        value = mtf.to_numpy(mtf.read_variable(variable))
        assert_close(value, reference_value(after, path, variables), FLOAT32_MODEL_TOLERANCE)
