"""The files that the configuration of a run directory names, wherever the directory is now."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtfrun.configuration.config_error import ConfigError
from mtfrun.errors import InputError
from mtfrun.untrusted.regular_files import is_plain_name, read_regular
from mtfrun.untrusted.strict_json import parse_json

CONFIG = "config.gin"
RECORD = "files.json"
"""The file of a run directory that says where the run began, and what was copied."""

FOLDERS = ("vocabulary", "tokenizer")
"""The folders of a run directory that hold copies; the second one those of an imported model."""

LARGEST_COPY = 500_000_000
"""Bytes of a file that is copied."""

_LARGEST_RECORD = 16_000_000
# What an error about a path adds; by the path.
_notes: dict[str, str] = {}


@dataclasses.dataclass(frozen=True)
class Copy:
    """A file that was copied into a run directory.

    Attributes:
      file: its path there, "vocabulary/1f2e3d4c-spm.model".
      sha256: of its content, hexadecimal.
    """

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """What a run directory says about files.

    Attributes:
      directory: the working directory in which the configuration was written.
      run: the path of the run directory at that time.
      copies: by the names that the configuration has for the originals.
      source_summary: see `Data.source_summary`.
    """

    directory: str
    run: str
    copies: Mapping[str, Copy] = dataclasses.field(default_factory=dict)
    source_summary: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, run: Path) -> RunFiles | None:
        """Returns what a run directory says; None if it says nothing.

        Raises:
          ConfigError: its file is damaged.
        """
        path = run / RECORD
        if not os.path.lexists(path):
            return None
        try:
            fields = parse_json(read_regular(path, _LARGEST_RECORD))
            copies = {name: Copy(**copy) for name, copy in fields.pop("copies").items()}
            files = cls(**fields, copies=copies)
            files._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(
                f"{path} is damaged ({str(error)[:100]}): restore it from a backup, or name the "
                "configuration with --gin_file"
            ) from error
        return files

    def text(self) -> str:
        """Returns the content of the file."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"

    def _check(self) -> None:
        summary = self.source_summary
        texts = [
            self.directory,
            self.run,
            *(x for c in self.copies.values() for x in vars(c).values()),
        ]
        if not all(isinstance(text, str) for text in texts) or "\0" in "".join(texts):
            raise InputError("a name is not a text")
        if not isinstance(summary, Mapping | None):
            raise InputError("source_summary is not an object")
        for copy in self.copies.values():
            folder, _, name = copy.file.partition("/")
            if folder not in FOLDERS or not is_plain_name(name):
                raise InputError(f"{copy.file!r} is no file in {' or '.join(FOLDERS)}")


@dataclasses.dataclass(frozen=True)
class Relocation:
    """The change of the value of one binding.

    Attributes:
      run: the run directory.
      files: what it says.
      name: of the binding.
      is_path: whether its texts are paths.
    """

    run: Path
    files: RunFiles
    name: str
    is_path: bool

    def __call__(self, value: Any) -> Any:
        """Returns the value for the present place."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict):
            return {key: self(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self, value))
        return value

    def _text(self, text: str) -> str:
        if text in self.files.copies:
            return self._copy(text)
        if not self.is_path or not text or text.startswith("~"):
            return text
        if not os.path.isabs(text):  # noqa: PTH117 - of texts
            path = os.path.join(self.files.directory, text)  # noqa: PTH118
            _notes[path] = _notes[os.path.normpath(path)] = (
                f" ({text!r} in {self.run} is relative to {self.files.directory}, where the run "
                f"began; name other files with --gin.{self.name}=...)"
            )
            return path
        if Path(text).is_relative_to(self.files.run):
            return str(self.run / Path(text).relative_to(self.files.run))
        return text

    def _copy(self, name: str) -> str:
        """Returns the path of a copy.

        Raises:
          ConfigError: it is not what was copied.
        """
        copy = self.files.copies[name]
        path = self.run / copy.file
        try:
            if path.parent.is_symlink():
                raise OSError("its folder is a link")
            content = read_regular(path, LARGEST_COPY, follows_links=False)
            if hashlib.sha256(content).hexdigest() != copy.sha256:
                raise OSError("its content has changed")
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}: it is the run's copy of {name}, SHA-256 "
                f"{copy.sha256[:12]}...: copy that file there again, or name one with "
                f"--gin.{self.name}=..."
            ) from error
        return str(path)


def note_on_path(text: str) -> str:
    """Returns what to add to an error about a relative path of a run that leads nowhere, or ""."""
    lost = (path for path in _notes if path in text and not os.path.lexists(path))
    return _notes.get(next(lost, ""), "")
