"""The measurement of devices."""

from __future__ import annotations

import pytest
import tensorflow as tf

from mtfrun.extras.plan.profile import COLLECTIVES, DeviceProfile, MeasuredNetwork
from mtfrun.extras.plan.search import calibration
from mtfrun.extras.plan.search.calibration import calibrate

DEVICES = 2


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_SIZES", (16, 1 << 20))
    monkeypatch.setattr(calibration, "_ROWS", (16, 256))
    monkeypatch.setattr(calibration, "_COLLECTIVE_SIZES", (16, 1 << 16))
    monkeypatch.setattr(calibration, "_DTYPES", (tf.float32,))
    monkeypatch.setattr(calibration, "_LEAST_SECS", 0.01)
    monkeypatch.setattr(calibration, "_CALLS", 2)


# It compares times, which other programs change.
@pytest.mark.slow
@pytest.mark.usefixtures("few_sizes")
def test_larger_operations_products_and_collectives_take_longer() -> None:
    notes: list[str] = []
    profile = calibrate(DEVICES, notes.append)
    assert profile.devices == DEVICES
    assert profile == DeviceProfile.from_json(profile.to_json(), "devices.json")
    curves = [profile.operations, *profile.products.values()]
    network = profile.network
    assert isinstance(network, MeasuredNetwork)
    for kind in COLLECTIVES:
        (curve,) = network.curves[kind].values()
        curves.append(curve)
        assert any(kind in note for note in notes)
    for curve in curves:
        (_, small), (_, large) = curve.points
        assert 0 < small <= large
