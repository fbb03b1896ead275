"""The record of a sweep in its directory, which says whether a command continues it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from mtfrun.differences import changes, list_changes
from mtfrun.errors import InputError
from mtfrun.rundir import atomic_write
from mtfrun.rundir.errors import reason
from mtfrun.tools.sweep.grid import Grid
from mtfrun.untrusted import read_json

NAME = "sweep.json"


@dataclasses.dataclass(frozen=True)
class SweepRecord:
    files: Sequence[str]
    fixed: Mapping[str, str]
    varied: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, files: Sequence[str], grid: Grid) -> SweepRecord:
        varied = {v.name: list(v.values) for v in grid.varied}
        return cls(list(files), dict(grid.fixed), varied)

    @classmethod
    def read(cls, directory: pathlib.Path) -> SweepRecord | None:
        """Returns None without a record."""
        path = directory / NAME
        try:
            record = cls(**read_json(path))
            record._check()
            return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise InputError(
                f"{path} is not a record of a sweep ({reason(error)}): name another --model_dir"
            ) from error

    def _check(self) -> None:
        texts = [self.files, self.fixed, self.varied]
        if list(map(type, texts)) != [list, dict, dict]:
            raise InputError("it has other fields")
        lists = [self.files, [*self.fixed.values()], *self.varied.values()]
        if not all(type(x) is list and all(type(text) is str for text in x) for x in lists):
            raise InputError("a value is not a text")

    def write(self, directory: pathlib.Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        atomic_write(directory / NAME, json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    def continue_with(self, command: SweepRecord, directory: pathlib.Path) -> SweepRecord:
        """The command may add alternatives."""
        differing = changes(self._comparable(), command._comparable())
        if differing:
            raise InputError(
                f"{directory} has the sweep of another command: {list_changes(differing)}; give "
                "that command, or name another --model_dir"
            )
        varied = {  # in the order of the first command, which the names of runs have
            name: list(dict.fromkeys([*values, *command.varied[name]]))
            for name, values in self.varied.items()
        }
        return dataclasses.replace(self, varied=varied)

    def _comparable(self) -> dict[str, str]:
        files, varied = ", ".join(self.files), ", ".join(sorted(self.varied))
        return {**self.fixed, "gin files": files, "varied": varied}
