"""Reads the archives of this folder, each one file for git instead of hundreds.

python -m tests.oracle.packed NAME    # puts the folders in tests/oracle/NAME into NAME.zip
"""

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import shutil
import sys
import tempfile
import zipfile

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def unpack(name: str) -> pathlib.Path:
    """Returns a directory with the contents of `name`.zip, until this process ends."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"mtfrun-{name}-"))
    owner = os.getpid()  # not a process that is forked from this one

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    with zipfile.ZipFile(FOLDER / f"{name}.zip") as archive:
        archive.extractall(directory)
    return directory


def hugging_face_folders() -> pathlib.Path:
    """Returns a directory with a folder for each model."""
    return unpack("hf")


def _pack(unpacked: pathlib.Path) -> None:
    target = unpacked.with_suffix(".zip")
    files = {
        str(path.relative_to(unpacked)): path for path in unpacked.rglob("*") if path.is_file()
    }
    folders = {name.partition("/")[0] for name in files}
    contents = {name: path.read_bytes() for name, path in files.items()}
    if target.exists():
        with zipfile.ZipFile(target) as archive:
            names = [n for n in archive.namelist() if n.partition("/")[0] not in folders]
            contents |= {name: archive.read(name) for name in names}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    _pack(FOLDER / sys.argv[1])
