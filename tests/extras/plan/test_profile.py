"""Profiles of devices (curves, networks, their file), and the flags for memory and bandwidths."""

from __future__ import annotations

import json
import math

import pytest
import tensorflow as tf

from mtfrun.display.formats import parse_size
from mtfrun.errors import InputError
from mtfrun.extras.plan.profile import (
    COLLECTIVES,
    DeviceProfile,
    Hosts,
    Link,
    curve_secs,
    find_profile,
    parse_bandwidths,
)
from mtfrun.extras.plan.program import Collective
from mtfrun.extras.plan.search import calibration
from mtfrun.extras.plan.search.calibration import calibrate

LINE = [(0, 1e-6), (1e9, 1.000001)]
CURVES = {kind: {"2": LINE} for kind in COLLECTIVES}
CURVES["all-reduce"]["8"] = [(0, 5e-6), (1e9, 1.000005)]
MEASURED = DeviceProfile("here", [[0, 1e-6], [1000, 2e-6]], {"float32": LINE}, CURVES, devices=8)
INSIDE, ACROSS = Link(1e-6, 1e9), Link(1e-5, 1e8)
HOSTS = DeviceProfile("hosts", LINE, {"float32": LINE}, hosts=Hosts(4, INSIDE, ACROSS))
MESH = {"data": 2, "model": 4}


def _secs(profile: DeviceProfile, kind: str, device_bytes: int, axes: list[str]) -> float:
    devices = math.prod(MESH[axis] for axis in axes)
    return profile.collective_secs(Collective(kind, tuple(axes), devices, device_bytes), MESH)


def test_a_curve_is_straight_between_and_beyond_its_points() -> None:
    curve = [(10, 1.0), (20, 2.0), (40, 6.0)]
    assert [curve_secs(curve, size) for size in (5, 10, 15, 30, 60)] == [1.0, 1.0, 1.5, 4.0, 10.0]


def test_a_ring_inside_a_host_uses_its_links() -> None:
    # 3 of 4 parts go around a ring of 4.
    once = 3 * (1e-6 + 1000 / 4 / 1e9)
    assert _secs(HOSTS, "all-gather", 1000, ["model"]) == pytest.approx(once)
    assert _secs(HOSTS, "all-to-all", 1000, ["model"]) == pytest.approx(once)
    # Of a reduce-scatter the bytes are those of the result, a part.
    assert _secs(HOSTS, "reduce-scatter", 250, ["model"]) == pytest.approx(once)


def test_an_all_reduce_waits_for_the_messages_of_a_tree() -> None:
    for axes, devices, link in ((["model"], 4, INSIDE), (["data", "model"], 8, ACROSS)):
        sent = 2 * 1000 * (devices - 1) / devices / link.bytes_per_sec
        messages = {4: 4, 8: 6}[devices]
        secs = _secs(HOSTS, "all-reduce", 1000, axes)
        assert secs == pytest.approx(messages * link.latency_secs + sent)


@pytest.mark.parametrize("axes", [["data"], ["data", "model"]])
def test_devices_of_several_hosts_use_the_links_between_them(axes: list[str]) -> None:
    devices = 2 if axes == ["data"] else 8
    secs = _secs(HOSTS, "all-gather", 1000, axes)
    assert secs == pytest.approx((devices - 1) * (1e-5 + 1000 / devices / 1e8))


def test_a_measured_network_takes_the_nearest_number_of_devices() -> None:
    assert _secs(MEASURED, "all-reduce", 0, ["data"]) == pytest.approx(1e-6)
    assert _secs(MEASURED, "all-reduce", 0, ["data", "model"]) == pytest.approx(5e-6)


@pytest.mark.parametrize("name", ["measured", "a100", "t4"])
def test_a_profile_is_read_as_it_was_written(name: str) -> None:
    profile = MEASURED if name == "measured" else find_profile(name, 8)
    text = profile.to_json()
    assert DeviceProfile.from_json(text, "devices.json").to_json() == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operations": None}, "missing 1 required .* 'operations'"),
        ({"operation": [[0, 1], [1, 1]]}, "unexpected keyword argument 'operation'"),
        ({"operations": [[0, 1]]}, "is not a curve"),
        ({"operations": [[0, -1], [1, 1]]}, "is not a curve"),
        ({"operations": [[2, 1], [1, 2]]}, "do not ascend"),
        ({"operations": 3}, "is not a profile of devices"),
        ({"products": {"int8": LINE}}, 'no products of "float32"'),
        ({"collectives": {"all-reduce": {"2": LINE}}}, "has no all-gather"),
        ({"collectives": None}, "either"),
        ({"hosts": {"inside": {}}}, "missing 2 required"),
        ({"memory_bytes": "much"}, "memory_bytes is 'much': it must be"),
    ],
)
def test_a_malformed_file_is_an_error_of_one_line(changes: dict[str, object], message: str) -> None:
    fields = json.loads(MEASURED.to_json()) | changes
    text = json.dumps({name: value for name, value in fields.items() if value is not None})
    with pytest.raises(InputError, match=message) as error:
        DeviceProfile.from_json(text, "devices.json")
    assert str(error.value).startswith("devices.json")
    assert "\n" not in str(error.value)


def test_a_type_without_products_counts_as_float32() -> None:
    assert MEASURED.product_secs(1000, "bfloat16") == MEASURED.product_secs(1000, "float32")


@pytest.mark.parametrize("text", ["", "GB", "0GB", "16 bytes", "-1GB"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a number of bytes: write 16GB"):
        parse_size(text)


def test_bandwidths_are_by_axis() -> None:
    assert parse_bandwidths("data:12GB/s, model:1.5GB", ["data", "model"]) == {
        "data": 12e9,
        "model": 1.5e9,
    }
    with pytest.raises(InputError, match=r"^'12GB' is not a bandwidth: write data:12GB/s"):
        parse_bandwidths("12GB", ["data"])


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
    DeviceProfile.from_json(profile.to_json(), "devices.json")
    curves = [profile.operations, *profile.products.values()]
    for kind in COLLECTIVES:
        (curve,) = profile.collectives[kind].values()
        curves.append(curve)
        assert any(kind in note for note in notes)
    for curve in curves:
        (_, small), (_, large) = curve
        assert 0 < small <= large
