"""Norms of gradients, parameters and updates: their values, at which steps, under which layouts."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data import Infeed
from mtfrun.training import train_steps_function
from mtfrun.training.norms import GRADIENT, Norms
from mtfrun.training.options import StepOptions
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.training.test_sharded_state import Setting, make_state
from tests.training.toy_model import batches
from tests.training.toy_run import take_steps

EVERY, STEPS = 2, 5
SHAPE = mtf.convert_to_shape("batch:16;length:6")


def norms_of(setting: Setting, rule: str = "") -> dict[str, np.ndarray]:
    """Returns the norms [steps] of a few steps by tag, that of all gradients too."""
    state = make_state(setting, rule)
    norms = Norms(state.trainable, EVERY, last_step=STEPS)
    record = take_steps(
        *(state, STEPS, 16),
        norms=norms,
        microbatches=setting.microbatches,
        clip_norm=setting.clip_norm,
    )
    return {**norms.by_tag(record.norm_squares[0]), GRADIENT: record.gradient_norm}


def _norm(values: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in values)))


def _by_module(values: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    modules: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for path, value in values.items():
        modules[path.partition("/")[0]].append(value)
    return modules


@pytest.mark.parametrize(
    ("model", "microbatches"),
    [*(pytest.param("transformer", n, marks=pytest.mark.slow) for n in (1, 2)), ("bigram", 2)],
)
def test_norms_are_those_of_numpy_before_clipping(model: str, microbatches: int) -> None:
    setting = Setting("adafactor", model, ONE_DEVICE, microbatches, clip_norm=0.01)
    state = make_state(setting, "")
    infeed = Infeed(batches(batch=16), state.mesh, {"targets": SHAPE})
    norms = Norms(state.trainable, EVERY, last_step=STEPS)
    run = train_steps_function(
        state,
        StepOptions(microbatches=microbatches, clip_norm=0.01),
        norms=norms,
        with_gradients=True,
    )
    for step in range(1, STEPS + 1):
        before = mtf.to_numpy(state.trainable)
        features = infeed.next(1)
        assert features is not None
        record = mtf.to_numpy(run(features, mtf.constant(state.mesh, 1, dtype=tf.int32)))
        after = mtf.to_numpy(state.trainable)
        actual = {tag: x[0] for tag, x in norms.by_tag(record.norm_squares[0]).items()}
        if step % EVERY and step != STEPS:
            assert not any(actual.values())  # the curves have no value
            continue
        arrays = {
            "gradient": {path: record.gradients[path][0] for path in before},
            "parameter": before,
            "update": {path: after[path] - before[path] for path in before},
        }
        expected = {}
        for kind, values in arrays.items():
            expected[f"norm/{kind}"] = _norm(values.values())
            for module, of_module in _by_module(values).items():
                expected[f"norm/{kind}/{module}"] = _norm(of_module)
        actual[GRADIENT] = record.gradient_norm[0]
        assert actual.keys() == expected.keys() and "norm/update/embedding" in actual
        for tag, value in expected.items():
            assert_close(actual[tag], np.float32(value), FLOAT32_MODEL_TOLERANCE)


LAYOUTS = [
    (Setting(mesh_shape="data:2,model:2"), ""),
    (Setting(mesh_shape="data:2,model:2", microbatches=2), "weights:data"),
    (Setting("adafactor", "transformer in a loop"), "slots:data"),
    (Setting("adafactor", "transformer", microbatches=2), "weights:data"),
    (Setting(mesh_shape="data:8,model:1"), "slots:data"),
    (Setting("sgd", "transformer in a loop", ONE_DEVICE), ""),
]


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "rule"), LAYOUTS)
def test_norms_do_not_depend_on_the_layout(setting: Setting, rule: str) -> None:
    plain_model = "tied transformer" if "loop" in setting.model else setting.model
    one_device = Setting(setting.optimizer, plain_model, ONE_DEVICE, setting.microbatches)
    expected, actual = norms_of(one_device), norms_of(setting, rule)
    assert actual.keys() == expected.keys()
    for tag, value in expected.items():
        assert_close(actual[tag], value, FLOAT32_MODEL_TOLERANCE)


def test_a_model_of_one_module_has_its_norms_once() -> None:
    norms = Norms(["model/a", "model/b/c"], 1, 1)
    assert norms.by_tag(np.array([[0.5, 2.0, 8.0]])) == {
        "norm/parameter": np.array([2.0]),
        "norm/update": np.array([4.0]),
    }
