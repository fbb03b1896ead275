"""The files that a run directory's configuration names, also after the directory has moved."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtfrun.configuration.errors import note_path
from mtfrun.configuration.gin_values import MACRO, map_parts
from mtfrun.configuration.statements import Binding, follow
from mtfrun.errors import ConfigError, InputError
from mtfrun.errors.untrusted import is_plain_name, parse_json, read_regular
from mtfrun.errors.url_secrets import mask_json

CONFIG = "config.gin"
RECORD = "files.json"
"""The file of a run directory that records where the run started and which files were copied."""

FOLDERS = ("vocabulary", "tokenizer")
"""The folders of a run directory for copies; "tokenizer" holds the files of an imported model."""

LARGEST_COPY = 500_000_000
"""Maximum size in bytes of a file that is copied."""

_LARGEST_RECORD = 16_000_000
# Names of parameters for paths or patterns of paths.
_PATH = re.compile(r"(?:.*_)?(?:files?|dirs?|directory|folder|paths?|patterns?)")


@dataclasses.dataclass(frozen=True)
class Copy:
    """A file in a run directory, such as "vocabulary/1f2e3d4c-spm.model"."""

    file: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """The files that a run directory records, by the originals' paths in the configuration.

    `directory` is the working directory, and `run` the run directory, when it was written.
    """

    directory: str
    run: str
    copies: Mapping[str, Copy] = dataclasses.field(default_factory=dict)
    source_summary: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, run: Path) -> RunFiles | None:
        """Reads the record of a run directory, None without one; ConfigError if it is damaged."""
        path = run / RECORD
        if not os.path.lexists(path):
            return None
        try:
            fields = parse_json(read_regular(path, _LARGEST_RECORD, follows_links=False))
            copies = {name: Copy(**copy) for name, copy in fields.pop("copies").items()}
            files = cls(**fields, copies=copies)
            files._check()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"{path} is damaged ({str(error)[:100]})"
            raise ConfigError(f"{what}: name the configuration with --gin_file") from error
        return files

    def text(self) -> str:
        return json.dumps(mask_json(dataclasses.asdict(self)), indent=1, ensure_ascii=False) + "\n"

    def _check(self) -> None:
        summary = self.source_summary
        texts = [self.directory, self.run]
        texts += [text for copy in self.copies.values() for text in vars(copy).values()]
        if not all(isinstance(text, str) for text in texts) or "\0" in "".join(texts):
            raise InputError("a name is not a text")
        if not isinstance(summary, Mapping | None):
            raise InputError("source_summary is not an object")
        for copy in self.copies.values():
            folder, _, name = copy.file.partition("/")
            if folder not in FOLDERS or not is_plain_name(name):
                raise InputError(f"{copy.file!r} is not a file in {' or '.join(FOLDERS)}")


def _relocate(value: Any, run: Path, files: RunFiles, name: str, *, is_path: bool) -> Any:
    """Resolves the paths in the value of the binding `name`; `is_path` if its texts are paths."""
    if not isinstance(value, str):
        return map_parts(lambda part: _relocate(part, run, files, name, is_path=is_path), value)
    if value in files.copies:
        return _find_copy(run, files.copies[value], value, name)
    if not is_path or not value or value.startswith("~") or "://" in value:
        return value
    if not os.path.isabs(value):  # noqa: PTH117 - of texts
        path = os.path.join(files.directory, value)  # noqa: PTH118
        note_path(
            path,
            f" ({value!r} in {run} is relative to {files.directory}, where the run began; name "
            f"other files with --gin.{name}=...)",
        )
        return path
    if Path(value).is_relative_to(files.run):
        return str(run / Path(value).relative_to(files.run))
    return value


def _find_copy(run: Path, copy: Copy, original: str, name: str) -> str:
    path = run / copy.file
    try:
        if path.parent.is_symlink():
            raise OSError("its folder is a link")
        content = read_regular(path, LARGEST_COPY, follows_links=False)
        if hashlib.sha256(content).hexdigest() != copy.sha256:
            raise OSError("its content has changed")
    except OSError as error:
        raise ConfigError(
            f"{path}: {error.strerror or error}: it is the run's copy of {original}, SHA-256 "
            f"{copy.sha256[:12]}...: name another file with --gin.{name}=..."
        ) from error
    return str(path)


def relocations(
    bindings: Sequence[Binding], runs: Mapping[str, Path]
) -> dict[int, Callable[[Any], Any]]:
    """Returns functions that resolve the paths in bindings, by the index of the binding.

    The path of a copied file becomes the path of the copy, paths inside the run directory follow
    it, and relative paths start at the directory where the configuration was written. `runs` has
    the run directory by the path of its configuration, as in `Binding.place`.
    """
    records = {place: (run, RunFiles.of(run)) for place, run in runs.items()}
    macros = _macros_of_paths(bindings)
    functions: dict[int, Callable[[Any], Any]] = {}
    for number, binding in enumerate(bindings):
        run, files = records.get(binding.place.rpartition(":")[0], (None, None))
        if run is not None and files is not None and not binding.from_flag:
            is_path = _is_path(binding) or (binding.selector == MACRO and binding.scope in macros)
            functions[number] = functools.partial(
                _relocate, run=run, files=files, name=binding.name, is_path=is_path
            )
    return functions


def _is_path(binding: Binding) -> bool:
    if binding.selector == MACRO:
        return False
    # `InitCheckpoint.names` may be a file, or the names themselves.
    is_file = binding.parameter == "names" and isinstance(binding.value, str)
    return is_file or _PATH.fullmatch(binding.parameter) is not None


def _macros_of_paths(bindings: Sequence[Binding]) -> set[str]:
    def macros_in(values: Iterable[Binding]) -> list[str]:
        return [r.macro for binding in values for r in binding.references() if r.macro]

    macro_bindings = [binding for binding in bindings if binding.selector == MACRO]
    paths = macros_in(binding for binding in bindings if _is_path(binding))
    return {*follow(paths, lambda name: macros_in(b for b in macro_bindings if b.scope == name))}
