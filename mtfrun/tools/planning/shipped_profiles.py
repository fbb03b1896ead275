"""Profiles of clusters from data sheets. None of them was measured."""

from __future__ import annotations

from collections.abc import Mapping

from mtfrun.tools.planning.profile import Curve, DeviceProfile, HostNetwork, Link

# Of what a data sheet promises, that which programs usually reach.
_REACHED = 0.5


def shipped_profiles() -> Mapping[str, DeviceProfile]:
    """Returns the profiles by the name that --profile takes."""
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
