"""Layouts, policies and gates of the reference cases of mixtures of experts."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from mtfrun.models import moe
from tests.oracle.layer_case import ONE_DEVICE
from tests.oracle.reference_cases import ReferenceCase


def layouts_over(
    case: ReferenceCase, names: Iterable[str], fixed: Iterable[tuple[str, str]] = ()
) -> list[tuple[str, str]]:
    """Returns the (mesh shape, layout) pairs under which a case is run.

    These are one device, the `fixed` ones, a mesh without a rule, every named dimension of the case
    by itself, and every pair of them.
    """
    sizes: dict[str, set[int]] = {}
    for key, dims in case.dims.items():
        for name, size in zip(dims, case.arrays[key].shape, strict=True):
            sizes.setdefault(name, set()).add(size)
    parts = {}
    for name in names:
        primes = [p for p in (2, 3, 5) if all(size % p == 0 for size in sizes.get(name, {1}))]
        if primes:
            parts[name] = primes[0]
    layouts = [ONE_DEVICE, *fixed, ("data:2,model:2", "")]
    layouts += [(f"data:{size},model:1", f"{name}:data") for name, size in parts.items()]
    for first, second in itertools.combinations(parts, 2):
        if parts[first] * parts[second] <= 8:
            mesh_shape = f"data:{parts[first]},model:{parts[second]}"
            layouts.append((mesh_shape, f"{first}:data;{second}:model"))
    return list(dict.fromkeys(layouts))


def policy(hparams: dict[str, Any], phase: str) -> moe.SecondExpertPolicy:
    """Returns the second-expert policy of "train" or "eval"."""
    threshold = hparams[f"moe_second_threshold_{phase}"]
    policies: dict[str, moe.SecondExpertPolicy] = {
        "all": moe.All(),
        "none": moe.Never(),
        "threshold": moe.Threshold(threshold),
    }
    return policies[hparams[f"moe_second_policy_{phase}"]]


def top_2_gate(hparams: dict[str, Any]) -> moe.Top2:
    """Returns the top-2 gate of a case."""
    return moe.Top2(
        second_policy_training=policy(hparams, "train"),
        second_policy_evaluation=policy(hparams, "eval"),
        second_expert_loss=hparams["moe_use_second_place_loss"],
        z_loss=hparams.get("moe_z_loss") or 0.0,
    )
