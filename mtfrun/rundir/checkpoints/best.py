from __future__ import annotations

import dataclasses
import json
import math
import pathlib

from mtfrun.errors import InputError
from mtfrun.rundir import atomic
from mtfrun.rundir.errors import RunDirError, reason
from mtfrun.untrusted import read_json

LOWEST, HIGHEST = "lowest", "highest"
MODES = (LOWEST, HIGHEST)
"""Which value of a metric is the best."""


def is_better(value: float, other: float, mode: str) -> bool:
    """NaN is never better."""
    return value < other if mode == LOWEST else value > other


@dataclasses.dataclass(frozen=True)
class Best:
    step: int
    metric: str
    value: float
    mode: str = LOWEST

    def __post_init__(self) -> None:
        kinds = {"step": int, "metric": str, "value": float, "mode": str}
        for name, kind in kinds.items():
            if type(getattr(self, name)) is not kind:
                raise InputError(f"{name} is {getattr(self, name)!r}, not {kind.__name__}")
        if self.step < 0 or not math.isfinite(self.value) or self.mode not in MODES:
            raise InputError("a value is out of its range")


def read_best(directory: pathlib.Path) -> Best | None:
    path = _path(directory)
    try:
        return Best(**read_json(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RunDirError(
            f"{path} is damaged: {reason(error)}; name a step, or remove the file: the next better "
            "evaluation writes another"
        ) from error


def write_best(directory: pathlib.Path, best: Best) -> None:
    with atomic.atomic_replace(_path(directory)) as file:
        file.write(json.dumps(dataclasses.asdict(best)) + "\n")


def _path(directory: pathlib.Path) -> pathlib.Path:
    return directory / "best.json"
