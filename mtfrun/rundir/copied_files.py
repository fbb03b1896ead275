"""Files that are copied into a run directory: vocabularies, and the origin of an imported model.

The run is then self-contained. The source of a copy may be untrusted: only regular files of bounded
sizes are read.
"""

from __future__ import annotations

import hashlib
import os
import pathlib
import re
from collections.abc import Iterable, Mapping

from mtfrun.configuration.run_files import FOLDERS, LARGEST_COPY, RECORD, Copy, RunFiles
from mtfrun.errors.untrusted import read_regular
from mtfrun.files import is_url, local_copy
from mtfrun.files.atomic import atomic_replace, atomic_write, remove_temporary_files
from mtfrun.files.errors import refuse_link, run_dir_errors

ORIGIN_RECORD = "import.json"
"""The file of a run directory that says where its model comes from."""

ORIGIN_FOLDER, TOKENIZER_FOLDER = "origin", "tokenizer"
"""The directories of a run with the other files of the model that was imported."""

IMPORTED_CONFIG = "imported.gin"
"""The configuration as it was imported; training replaces config.gin."""

UNUSED_TENSORS = "kept.safetensors"
"""Tensors of an imported model that the model here does not use."""

MODEL_FILES = (
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    "model.safetensors.index.json",
)
TOKENIZER_FILES = (
    *("spiece.model", "sentencepiece.model", "tokenizer.model", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "source.spm", "target.spm", "chat_template.jinja"),
    "sentencepiece.bpe.model",
)
"""Names of files of a Hugging Face folder, which an export gives back."""

_ORIGIN_FILES = {
    ORIGIN_FOLDER: (*MODEL_FILES, IMPORTED_CONFIG, UNUSED_TENSORS),
    TOKENIZER_FOLDER: TOKENIZER_FILES,
}
_LARGEST_ORIGIN_FILE = (1 << 30) + LARGEST_COPY


def write_run_files(
    run: pathlib.Path,
    names: Iterable[str],
    source_summary: Mapping[str, object] | None = None,
    *,
    place: pathlib.Path | None = None,
) -> None:
    """Copies files into a run directory and records them, with the base of relative paths.

    The name of a copy contains a hash of its content, so that no copy replaces another, even if
    the configuration is refused later. `place` is the final path of a run that will be renamed.
    """
    place = place or run
    copies = {name: _copy(run, name) for name in names}
    at_place = {name.replace(str(run), str(place), 1): copy for name, copy in copies.items()}
    files = RunFiles(str(pathlib.Path.cwd()), str(place), at_place, source_summary)
    # A lone surrogate represents a byte of a path that is not UTF-8; JSON cannot hold it.
    text = files.text().encode("utf-8", "replace").decode()
    atomic_write(run / RECORD, text)


def keep_origin(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the origin, if any, of an imported run into a run that starts from it.

    The run can then be exported without the imported run; an export checks the contents.
    """
    if not os.path.lexists(source / ORIGIN_RECORD):
        return
    for directory, names in _ORIGIN_FILES.items():
        for path in (source / directory, target / directory):
            refuse_link(path)
        for name in names:
            copy_file(source / directory / name, target / directory / name, _LARGEST_ORIGIN_FILE)
    # Last: an export takes the files for whole if there is a record.
    copy_file(source / ORIGIN_RECORD, target / ORIGIN_RECORD, _LARGEST_ORIGIN_FILE)


def copy_file(source: pathlib.Path, target: pathlib.Path, largest: int = LARGEST_COPY) -> None:
    """Copies a file, if it exists; RunDirError for a link, a pipe or more than `largest` bytes."""
    if not os.path.lexists(source):
        return
    with run_dir_errors(f"cannot copy {source}", "remove it"):
        content = read_regular(source, largest, follows_links=False)
    with atomic_replace(target) as file:
        file.buffer.write(content)


def _copy(run: pathlib.Path, name: str) -> Copy:
    path = local_copy(name) if is_url(name) else pathlib.Path(os.path.expanduser(name))
    original = path.absolute()
    with run_dir_errors(f"cannot copy {name} into {run}", "check it", OSError, ValueError):
        content = read_regular(original, LARGEST_COPY)
    sha256 = hashlib.sha256(content).hexdigest()
    if original.parent.parent == run and original.parent.name in FOLDERS:
        return Copy(f"{original.parent.name}/{original.name}", sha256)
    # Characters that records or file systems reject are replaced.
    plain_name = re.sub(r"[^A-Za-z0-9._-]", "_", original.name)[-100:]
    target = run / FOLDERS[0] / f"{sha256[:8]}-{plain_name}"
    refuse_link(target.parent)
    remove_temporary_files(target)
    with atomic_replace(target) as file:
        file.buffer.write(content)
    return Copy(f"{FOLDERS[0]}/{target.name}", sha256)
