"""Speeds of devices and the connections between them: measured, or of a data sheet."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from mtfrun.display.formats import parse_size
from mtfrun.errors import InputError, did_you_mean
from mtfrun.errors.checks import NOT_NEGATIVE, POSITIVE, check_fields
from mtfrun.errors.untrusted import parse_json
from mtfrun.extras.plan.program import Collective

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter")


class ProfileError(InputError):
    """A profile of devices is malformed, or does not fit the devices in question."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Seconds by size (bytes, or floating point operations), measured at some sizes.

    >>> Curve(((0, 1.0), (10, 2.0))).secs(5), Curve(((0, 1.0), (10, 2.0))).secs(30)
    (1.5, 4.0)
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        numbers = [number for point in self.points for number in point]
        sizes = [size for size, _ in self.points]
        if len(sizes) < 2 or min(numbers) < 0 or not all(map(math.isfinite, numbers)):
            raise ProfileError(
                f"{self.points!r} is not a curve: write two or more pairs [size, seconds], none "
                "negative"
            )
        if any(a >= b for a, b in itertools.pairwise(sizes)):
            raise ProfileError(f"the sizes of {self.points!r} do not ascend: sort the pairs")

    @classmethod
    def line(cls, latency_secs: float, per_sec: float) -> Curve:
        return cls(((0.0, latency_secs), (per_sec, latency_secs + 1.0)))

    def secs(self, size: float) -> float:
        """Interpolates and extrapolates linearly; constant below the smallest size."""
        sizes = [known for known, _ in self.points]
        if size <= sizes[0]:
            return self.points[0][1]
        end = min(bisect.bisect_left(sizes, size), len(sizes) - 1)
        (x0, y0), (x1, y1) = self.points[end - 1], self.points[end]
        return max(y0 + (y1 - y0) * (size - x0) / (x1 - x0), 0.0)


class Network(Protocol):
    def secs(self, collective: Collective, mesh: Mapping[str, int]) -> float:
        """Returns the seconds of a collective in all groups of devices at once.

        Devices along the last axis of the mesh are neighbours.
        """

    def to_json(self) -> dict[str, Any]:
        """Returns what `DeviceProfile.from_json` reads."""


@dataclasses.dataclass(frozen=True)
class MeasuredNetwork:
    """Seconds by bytes of a device's result, by kind and group size, while all devices are busy."""

    curves: Mapping[str, Mapping[int, Curve]]

    def secs(self, collective: Collective, mesh: Mapping[str, int]) -> float:
        by_devices = self.curves[collective.kind]
        nearest = min(by_devices, key=lambda devices: abs(devices - collective.group_size))
        return by_devices[nearest].secs(collective.device_bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            "collectives": {
                kind: {str(devices): curve.points for devices, curve in by_devices.items()}
                for kind, by_devices in self.curves.items()
            }
        }


@dataclasses.dataclass(frozen=True)
class Link:
    """`latency_secs` of a message; `bytes_per_sec` that one device sends while all devices send."""

    latency_secs: float
    bytes_per_sec: float

    def __post_init__(self) -> None:
        check_fields(self, NOT_NEGATIVE, "latency_secs")
        check_fields(self, POSITIVE, "bytes_per_sec")


@dataclasses.dataclass(frozen=True)
class HostNetwork:
    """Hosts with several devices each, one kind of link inside a host and one across hosts.

    Collectives go around a ring: n devices send n - 1 messages, of a part each, to their neighbour
    (Thakur et al. 2005, https://doi.org/10.1177/1094342005051521, section 4). An all-reduce sends
    twice as much, and waits for 2 log2(n) messages one after the other: it goes up and down two
    trees, as NCCL's does (Sanders et al. 2009, https://doi.org/10.1016/j.parco.2009.09.001). The
    slowest link decides. Devices are numbered host by host.
    """

    devices_per_host: int
    inside: Link
    across: Link

    def secs(self, collective: Collective, mesh: Mapping[str, int]) -> float:
        names = list(mesh)
        # A group is within so many neighbouring devices, from its first axis on.
        span = math.prod(mesh[name] for name in names[min(map(names.index, collective.axes)) :])
        link = self.inside if self.devices_per_host % span == 0 else self.across
        messages = collective.group_size - 1
        if collective.kind == "all-reduce":
            messages = 2 * messages.bit_length()
        return messages * link.latency_secs + collective.sent_bytes / link.bytes_per_sec

    def to_json(self) -> dict[str, Any]:
        return {"hosts": dataclasses.asdict(self)}


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """How long one device of a mesh takes, while all devices are as busy.

    `operations` has seconds by the bytes that an operation reads and writes; every operation costs
    at least the smallest size's. `products` has, by type ("float32", "bfloat16"), seconds of a
    matrix product by its floating point operations, two a multiplication. `devices` were measured
    together, since simulated ones share their processor; None for a data sheet. `memory_bytes` of a
    device is None if it is shared or not published.
    """

    name: str
    operations: Curve
    products: Mapping[str, Curve]
    network: Network
    devices: int | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if "float32" not in self.products:
            raise ProfileError('the profile has no products of "float32"')

    def product_secs(self, flops: float, dtype: str) -> float:
        """Types that the profile lacks count as float32."""
        return self.products.get(dtype, self.products["float32"]).secs(flops)

    def require_devices(self, devices: int) -> None:
        """Raises ProfileError if the profile was measured with another number of devices."""
        if self.devices not in (None, devices):
            raise ProfileError(
                f"the profile {self.name} was measured with {self.devices} devices, not with "
                f"{devices}: mtfrun plan --calibrate --devices={devices} measures another one"
            )

    def to_json(self) -> str:
        fields = {
            "name": self.name,
            "devices": self.devices,
            "memory_bytes": self.memory_bytes,
            "operations": self.operations.points,
            "products": {dtype: curve.points for dtype, curve in self.products.items()},
            **self.network.to_json(),
        }
        return json.dumps(fields, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> DeviceProfile:
        """Reads `to_json`'s text, or a data sheet's with "hosts"; ProfileErrors name `where`."""
        try:
            fields = parse_json(text.encode())
            _check_names(fields)
            return cls(
                name=str(fields["name"]),
                operations=_curve(fields["operations"]),
                products={dtype: _curve(points) for dtype, points in fields["products"].items()},
                network=_network(fields),
                **{name: int(fields[name]) for name in _INTEGERS if fields.get(name) is not None},
            )
        except ProfileError as error:
            raise ProfileError(f"{where}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ProfileError(
                f"{where} is not a profile of devices ({type(error).__name__}: {error}): make one "
                "with mtfrun plan --calibrate"
            ) from None


_REQUIRED, _INTEGERS = ("name", "operations", "products"), ("devices", "memory_bytes")
_FIELDS = (*_REQUIRED, *_INTEGERS, "collectives", "hosts")


def _check_names(fields: Mapping[str, object]) -> None:
    for name in fields:
        if name not in _FIELDS:
            raise ProfileError(f'unknown field "{name}"{did_you_mean(name, _FIELDS)}')
    missing = [name for name in _REQUIRED if name not in fields]
    if missing:
        raise ProfileError(f"the fields {', '.join(missing)} are missing")


def _curve(points: Sequence[Sequence[float]]) -> Curve:
    return Curve(tuple((float(size), float(secs)) for size, secs in points))


def _network(fields: Mapping[str, Any]) -> Network:
    if ("collectives" in fields) == ("hosts" in fields):
        raise ProfileError('it has to have either "collectives", measured, or "hosts", links')
    if "hosts" in fields:
        hosts = fields["hosts"]
        return HostNetwork(
            int(hosts["devices_per_host"]), Link(**hosts["inside"]), Link(**hosts["across"])
        )
    curves = {
        kind: {int(devices): _curve(points) for devices, points in by_devices.items()}
        for kind, by_devices in fields["collectives"].items()
    }
    for kind in COLLECTIVES:
        if not curves.get(kind):
            raise ProfileError(f'"collectives" has no {kind}')
    return MeasuredNetwork(curves)


# The share of a data sheet's speed that programs usually reach.
_REACHED = 0.5


def shipped_profiles() -> Mapping[str, DeviceProfile]:
    """Returns profiles from data sheets, not measured, by the name that --profile takes."""
    return {profile.name: profile for profile in (_a100(), _t4())}


def _a100() -> DeviceProfile:
    """Hosts of eight A100 (80 GB) with NVLink, 200 Gbit/s a device between hosts.

    https://www.nvidia.com/en-us/data-center/a100/: 2.0 TB/s, 19.5 TFLOP/s in float32 (156 in TF32),
    312 in bfloat16; NVLink 600 GB/s, both directions together.
    """
    return DeviceProfile(
        name="a100",
        operations=Curve.line(5e-6, _REACHED * 2.0e12),
        products={
            "float32": Curve.line(5e-6, _REACHED * 156e12),
            "bfloat16": Curve.line(5e-6, _REACHED * 312e12),
        },
        network=HostNetwork(
            devices_per_host=8,
            inside=Link(5e-6, _REACHED * 300e9),
            across=Link(20e-6, _REACHED * 25e9),
        ),
        memory_bytes=80 * 10**9,
    )


def _t4() -> DeviceProfile:
    """Hosts with one T4 (16 GB) each and a network of 10 Gbit/s.

    https://www.nvidia.com/en-us/data-center/tesla-t4/: 300 GB/s, 8.1 TFLOP/s in float32, which it
    uses for bfloat16 as well.
    """
    products = Curve.line(10e-6, _REACHED * 8.1e12)
    link = Link(50e-6, _REACHED * 1.25e9)
    return DeviceProfile(
        name="t4",
        operations=Curve.line(10e-6, _REACHED * 300e9),
        products={"float32": products, "bfloat16": products},
        network=HostNetwork(devices_per_host=1, inside=link, across=link),
        memory_bytes=16 * 10**9,
    )


@dataclasses.dataclass(frozen=True)
class Resources:
    """Memory in bytes, None to ignore it, and bytes a second by mesh axis; axes may be missing."""

    device_memory: int | None = None
    bandwidths: Mapping[str, float] = dataclasses.field(default_factory=dict)


def parse_bandwidths(text: str) -> dict[str, float]:
    """Parses "data:12GB/s,model:300GB/s"."""
    bandwidths = {}
    for part in text.split(","):
        axis, colon, size = part.partition(":")
        if not colon or not axis.strip():
            raise InputError(f"{part!r} is not a bandwidth: write data:12GB/s,model:300GB/s")
        bandwidths[axis.strip()] = float(parse_size(size))
    return bandwidths
