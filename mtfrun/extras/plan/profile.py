"""Speeds of devices and the connections between them: measured, or of a data sheet."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from mtfrun.display.formats import parse_size
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, NOT_NEGATIVE, POSITIVE, check_fields
from mtfrun.errors.untrusted import parse_json
from mtfrun.extras.plan.program import Collective

# Files from data sheets, by the name that --profile takes.
_SHIPPED = pathlib.Path(__file__).parent / "profiles"
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter")

Curve: TypeAlias = Sequence[Sequence[float]]
"""Pairs of a size (bytes, or floating point operations) and seconds, by size."""


def curve_secs(curve: Curve, size: float) -> float:
    """Interpolates and extrapolates linearly; constant below the smallest size.

    >>> curve_secs([(0, 1.0), (10, 2.0)], 5), curve_secs([(0, 1.0), (10, 2.0)], 30)
    (1.5, 4.0)
    """
    end = bisect.bisect_left(curve, size, 1, len(curve) - 1, key=lambda point: point[0])
    (x0, y0), (x1, y1) = curve[end - 1], curve[end]
    return max(y0 + (y1 - y0) * max(size - x0, 0.0) / (x1 - x0), 0.0)


@dataclasses.dataclass(frozen=True)
class Link:
    """`latency_secs` of a message; `bytes_per_sec` that one device sends while all devices send."""

    latency_secs: float
    bytes_per_sec: float

    def __post_init__(self) -> None:
        check_fields(self, NOT_NEGATIVE, "latency_secs")
        check_fields(self, POSITIVE, "bytes_per_sec")


@dataclasses.dataclass(frozen=True)
class Hosts:
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

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "devices_per_host")

    def secs(self, collective: Collective, mesh: Mapping[str, int]) -> float:
        names = list(mesh)
        # A group is within so many neighbouring devices, from its first axis on.
        span = math.prod(mesh[name] for name in names[min(map(names.index, collective.axes)) :])
        link = self.inside if self.devices_per_host % span == 0 else self.across
        messages = collective.group_size - 1
        if collective.kind == "all-reduce":
            messages = 2 * messages.bit_length()
        return messages * link.latency_secs + collective.sent_bytes / link.bytes_per_sec


@dataclasses.dataclass(frozen=True)
class DeviceProfile:
    """How long one device of a mesh takes, while all devices are as busy; in a file as JSON.

    `operations` has seconds by the bytes that an operation reads and writes; every operation costs
    at least the smallest size's. `products` has, by type ("float32", "bfloat16"), seconds of a
    matrix product by its floating point operations, two a multiplication. The network is measured,
    `collectives` by kind, group size and bytes of a device's result, or `hosts`. `devices` were
    measured together, since simulated ones share their processor; None for a data sheet.
    `memory_bytes` of a device is None if it is shared or not published; `source` says where the
    values are from.
    """

    name: str
    operations: Curve
    products: Mapping[str, Curve]
    collectives: Mapping[str, Mapping[str, Curve]] = dataclasses.field(default_factory=dict)
    hosts: Hosts | None = None
    devices: int | None = None
    memory_bytes: int | None = None
    source: str = ""

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "devices", "memory_bytes", optional=True)
        if "float32" not in self.products:
            raise InputError('it has no products of "float32"')
        if bool(self.collectives) == (self.hosts is not None):
            raise InputError('it must have either "collectives", measured, or "hosts", links')
        curves = [self.operations, *self.products.values()]
        for kind in COLLECTIVES if self.collectives else ():
            if not self.collectives.get(kind):
                raise InputError(f'"collectives" has no {kind}')
            curves += [curve for size, curve in self.collectives[kind].items() if int(size)]
        for curve in curves:
            _check_curve(curve)

    def product_secs(self, flops: float, dtype: str) -> float:
        """Types that the profile lacks count as float32."""
        return curve_secs(self.products.get(dtype, self.products["float32"]), flops)

    def collective_secs(self, collective: Collective, mesh: Mapping[str, int]) -> float:
        """Returns the seconds of a collective in all groups of devices at once.

        Devices along the last axis of the mesh are neighbours. A group that was not measured takes
        as long as the group of the nearest size.
        """
        if self.hosts is not None:
            return self.hosts.secs(collective, mesh)
        curves = self.collectives[collective.kind]
        nearest = min(curves, key=lambda size: abs(int(size) - collective.group_size))
        return curve_secs(curves[nearest], collective.device_bytes)

    def to_json(self) -> str:
        fields = dataclasses.asdict(self).items()
        return json.dumps({name: x for name, x in fields if x not in (None, {}, "")}, indent=1)

    @classmethod
    def from_json(cls, text: str, where: str) -> DeviceProfile:
        """Reads `to_json`'s text, or a data sheet's; InputErrors begin with `where`."""
        try:
            fields = parse_json(text.encode())
            if (hosts := fields.get("hosts")) is not None:
                links = {name: Link(**hosts[name]) for name in ("inside", "across")}
                fields["hosts"] = Hosts(**{**hosts, **links})
            return cls(**fields)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            remedy = "make one with mtfrun plan --calibrate"
            raise InputError(f"{where} is not a profile of devices ({error}): {remedy}") from None


def _check_curve(curve: Curve) -> None:
    sizes, secs = zip(*curve, strict=True)
    if len(sizes) < 2 or min(*sizes, *secs) < 0 or not all(map(math.isfinite, (*sizes, *secs))):
        raise InputError(f"{curve!r} is not a curve of two or more pairs [size, seconds]")
    if any(a >= b for a, b in itertools.pairwise(sizes)):
        raise InputError(f"the sizes of {curve!r} do not ascend: sort the pairs")


def find_profile(name: str, devices: int) -> DeviceProfile:
    """Returns the profile of a file, or one of the shipped ones by its name."""
    shipped = sorted(path.stem for path in _SHIPPED.glob("*.json"))
    path = _SHIPPED / f"{name}.json" if name in shipped else pathlib.Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        remedy = f"mtfrun plan --calibrate --devices={devices} --profile={name}"
        raise InputError(
            f"--profile={name}: {error.strerror}; write it by {remedy}, or name "
            f"{' or '.join(shipped)}"
        ) from None
    profile = DeviceProfile.from_json(text, name)
    if profile.devices not in (None, devices):
        raise InputError(
            f"the profile {profile.name} was measured with {profile.devices} devices, not with "
            f"{devices}: mtfrun plan --calibrate --devices={devices} measures another one"
        )
    return profile


def parse_bandwidths(text: str, axes: Sequence[str]) -> dict[str, float]:
    """Parses "data:12GB/s,model:300GB/s", bytes a second by mesh axis; axes may be missing."""
    bandwidths = {}
    for part in text.split(","):
        axis, colon, size = (word.strip() for word in part.partition(":"))
        if not colon or not axis:
            raise InputError(f"{part!r} is not a bandwidth: write data:12GB/s,model:300GB/s")
        if axis not in axes:
            known = f"the axes of the mesh are {', '.join(axes)}"
            raise InputError(f"--bandwidth names {axis}: {known}")
        bandwidths[axis] = float(parse_size(size))
    return bandwidths
