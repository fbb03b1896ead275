"""What checkpoints say about adapters."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from mtfrun.checkpoints import Manifest
from mtfrun.errors import InputError
from mtfrun.experiment.adapters import ENTRY, as_adapters, saved_adapters
from mtfrun.files import RunDirError
from mtfrun.layers import Adapter, LoRA
from mtfrun.models.transformer import Bottlenecks
from tests.experiment.own_classes import SublayerScales


def _manifest(*adapters: dict[str, Any]) -> Manifest:
    base = {"path": "/tmp/base", "step": 2, "sha256": "0" * 64}
    return Manifest(1, "ckpt-1", {}, {}, {ENTRY: {"adapters": list(adapters), "base": base}})


def test_adapters_are_saved_by_the_names_of_their_classes() -> None:
    lora = {"kind": "LoRA", **dataclasses.asdict(LoRA(rank=2))}
    saved = saved_adapters(_manifest(lora, {"kind": f"{SublayerScales.__module__}.SublayerScales"}))
    assert saved is not None
    assert saved.adapters == (LoRA(rank=2), SublayerScales())
    assert saved_adapters(Manifest(1, "ckpt-1", {}, {}, saved.metadata())) == saved


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"kind": "other.Unknown"}, "no module that is imported has other.Unknown"),
        ({"kind": "LoRA", "rank": "2"}, "LoRA.rank='2' is not int"),
        ({"kind": "LoRA", "height": 2}, "height"),
        ({}, "kind"),
    ],
)
def test_damaged_descriptions_are_errors(fields: dict[str, Any], expected: str) -> None:
    with pytest.raises(RunDirError, match=f"ckpt-1 has adapters that are unknown: .*{expected}"):
        saved_adapters(_manifest(fields))


@dataclasses.dataclass(frozen=True)
class _WithoutDefault(Adapter):
    size: int

    def attach(self, root: Any) -> None:
        """Adds nothing."""


def test_a_setting_is_one_adapter_or_several() -> None:
    assert as_adapters(None, "adapters") == ()
    assert as_adapters(LoRA(), "adapters") == (LoRA(),)
    assert as_adapters([LoRA(), Bottlenecks()], "adapters") == (LoRA(), Bottlenecks())
    with pytest.raises(InputError, match="adapters='lora': adapters are"):
        as_adapters("lora", "adapters")
    with pytest.raises(InputError, match="its class must have a default for every field"):
        as_adapters(_WithoutDefault(2), "adapters")
