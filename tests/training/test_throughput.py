"""The speed, the share of the peak, and memory."""

from __future__ import annotations

import functools

import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.data import Infeed
from mtfrun.training import TrainState, train_steps_function
from mtfrun.training.hooks import throughput
from mtfrun.training.hooks.throughput import Machine, Throughput
from mtfrun.training.options import StepOptions
from tests.layouts import ONE_DEVICE
from tests.models.small_model import BATCH, LENGTH, small_model
from tests.training.toy_model import batches


def test_the_speed_leaves_out_the_loop_that_compiles_and_former_windows() -> None:
    speed = Throughput("perf/tokens_per_sec")

    def rates() -> list[float]:
        names = ("steps_per_sec", "tokens_per_sec", "data_wait_fraction")
        return [speed.rates()[f"perf/{name}"] for name in names]

    speed.add(1, 10.0, 60.0, 30.0)
    assert rates() == [1 / 60, 1 / 6, 0.5]
    speed.add(1, 10.0, 0.5, 0.0)
    speed.add(4, 40.0, 2.0, 0.5)
    assert rates() == [2.0, 20.0, 0.2]
    speed.start_window()
    speed.add(1, 10.0, 1.0, 0.0)
    assert rates() == [1.0, 10.0, 0.0]


@functools.cache
def _products(mesh_shape: str, microbatches: int = 1, scan_blocks: int | None = None) -> int:
    """Returns the operations of a forward pass of the small model."""
    mesh = mtf.Mesh(mesh_shape, "batch:data;heads:model;d_ff:model;vocab:model")
    model = small_model(mesh, tied_softmax=False, scan_blocks=scan_blocks)
    state = TrainState(model, optim.Sgd(0.1), mesh)
    state.initialize()
    data = batches(batch=BATCH.size, length=LENGTH.size)
    features = Infeed(data, mesh, {"targets": mtf.Shape([BATCH, LENGTH])}).next(1)
    assert features is not None
    products = mtf.FlopCount()
    run = train_steps_function(state, StepOptions(microbatches=microbatches), products=products)
    run(features, mtf.constant(mesh, 0, dtype=tf.int32))
    assert list(products.by_dtype) == ["float32"]
    return products.total


def test_operations_are_six_for_each_parameter_and_token_and_those_of_attention() -> None:
    """Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, appendix B: 6 N + 12 L H Q T."""
    mesh = mtf.Mesh()
    state = TrainState(small_model(mesh, tied_softmax=False), optim.Sgd(0.1), mesh)
    in_products = [v for path, v in state.trainable.items() if "/layer/" in path or "soft" in path]
    layers, heads, d_kv, length = 2, 4, 4, LENGTH.size
    per_token = 6 * sum(v.shape.size for v in in_products) + 12 * layers * heads * d_kv * length
    assert 3 * _products(ONE_DEVICE) == per_token * BATCH.size * length


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "microbatches", "scan_blocks"), [("data:2,model:2", 2, None), (ONE_DEVICE, 1, 1)]
)
def test_operations_do_not_depend_on_layout_microbatches_and_loops(
    mesh_shape: str, microbatches: int, scan_blocks: int | None
) -> None:
    assert _products(mesh_shape, microbatches, scan_blocks) == _products(ONE_DEVICE)


def test_the_peak_is_that_of_the_type_of_most_products(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def peak(device: str, dtype: str, rows: int) -> float:
        measured.append(dtype)
        return 1e12

    monkeypatch.setattr(throughput, "_peak_of_device", peak)
    products = mtf.FlopCount()
    of_machine = Machine(mtf.Mesh("data:2,model:2"), products)
    assert of_machine.speed(10.0) == {}
    products.add(10**9, tf.float32)
    products.add(9 * 10**9, tf.bfloat16)
    # Three passes of 10^10 operations ten times a second. Simulated devices share one processor.
    assert of_machine.speed(10.0) == pytest.approx(
        {"perf/model_tflop_per_sec": 0.3, "perf/peak_fraction": 0.3}
    )
    assert measured == ["bfloat16"]


@pytest.mark.slow
def test_the_peak_and_the_memory_of_this_machine() -> None:
    # Between a slow core that is shared by many and the fastest processor.
    assert 1e8 < throughput.products_per_sec("CPU:0", "float32", 256) < 1e14
    before = Machine(mtf.Mesh(), mtf.FlopCount()).memory()["perf/host_memory_gb"]
    block = bytearray(b"x" * 300_000_000)
    after = Machine(mtf.Mesh(), mtf.FlopCount()).memory()["perf/host_memory_gb"]
    assert after - before > 0.2 and len(block) > 0
