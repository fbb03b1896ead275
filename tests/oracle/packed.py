"""Reads the folders in `hf.zip`, one file for git instead of hundreds.

python -m tests.oracle.packed    # puts the folders in tests/oracle/hf into it, new or again
"""

from __future__ import annotations

import atexit
import functools
import os
import pathlib
import shutil
import tempfile
import zipfile

ARCHIVE = pathlib.Path(__file__).with_name("hf.zip")


@functools.cache
def hugging_face_folders() -> pathlib.Path:
    """Returns a directory with a folder for each model, until this process ends."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mtfrun-hf-"))
    owner = os.getpid()  # not a process that is forked from this one

    @atexit.register
    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(directory, ignore_errors=True)

    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(directory)
    return directory


def _pack() -> None:
    unpacked = ARCHIVE.with_suffix("")
    files = {str(path.relative_to(unpacked)): path for path in unpacked.rglob("*.*")}
    folders = {name.partition("/")[0] for name in files}
    contents = {name: path.read_bytes() for name, path in files.items()}
    if ARCHIVE.exists():
        with zipfile.ZipFile(ARCHIVE) as archive:
            names = [n for n in archive.namelist() if n.partition("/")[0] not in folders]
            contents |= {name: archive.read(name) for name in names}
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sorted(contents.items()):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    _pack()
