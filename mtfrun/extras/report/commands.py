"""The commands that a run directory records: where, when and with what a run was trained."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.files.errors import run_dir_errors
from mtfrun.rundir import commands

# What reading JSON that is not as it was written raises.
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError)


@dataclasses.dataclass(frozen=True)
class RecordedCommand:
    """A file of `record_command`; `fields` are texts by label, for a person to read."""

    file: str
    words: Sequence[str]
    shell: str
    fields: Mapping[str, str]

    @property
    def name(self) -> str:
        """Such as "train"."""
        return self.words[1] if len(self.words) > 1 else ""

    def flag_values(self, flag: str) -> list[str]:
        """Returns the values of --flag=VALUE and --flag VALUE, in order."""
        values: list[str] = []
        for i, word in enumerate(self.words):
            name, sign, value = word.lstrip("-").partition("=")
            if word.startswith("-") and name == flag:
                values += [value] if sign else self.words[i + 1 : i + 2]
        return values


def read_commands(run: pathlib.Path) -> list[RecordedCommand]:
    """Reads the commands in the order in which they were given; RunDirError if one is damaged."""
    records = commands.read_commands(run).items()
    return [_command(run / "commands" / name, record) for name, record in records]


def _command(path: pathlib.Path, record: Mapping[str, Any]) -> RecordedCommand:
    with run_dir_errors(f"{path} is damaged", "remove it", *_DAMAGE):
        words = [str(word) for word in record["command"]]
        versions = {str(name): str(text) for name, text in record.get("versions", {}).items()}
        fields = {
            "date": record.get("date"),
            "machine": record.get("host"),
            "system": record.get("platform"),
            "working directory": record.get("directory"),
            "devices": record.get("devices"),
            "mesh": record.get("mesh"),
            "layout": record.get("layout"),
            "seed": record.get("seed"),
            "versions": ", ".join(f"{name} {text}" for name, text in versions.items()),
            "commit": record.get("commit"),
        }
        shown = {name: str(value) for name, value in fields.items() if value not in (None, "")}
        return RecordedCommand(path.name, words, str(record["shell"]), shown)
