"""Imported folders that several tests of a file use."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.extras.huggingface.imported_models import Imported


@pytest.fixture(scope="module")
def import_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    """A function that imports a stored folder, once in the tests of a file."""
    # TensorFlow takes seconds, and the process that distributes tests reads this file as well.
    from tests.extras.huggingface.imported_models import imported  # noqa: PLC0415

    return functools.cache(lambda name: imported(name, tmp_path_factory.mktemp("imported")))


@pytest.fixture(scope="module")
def made_folders(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, pathlib.Path]:
    """Models of `PROGRAM` by name, for all chosen tests of a file: torch is imported once."""
    from tests.extras.huggingface.imported_models import run_program  # noqa: PLC0415

    chosen = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function.__module__ == request.module.__name__
        and item.originalname.startswith("test_other_configurations")
    ]
    folders = {name: tmp_path_factory.mktemp("made") / "folder" for name in chosen}
    arguments: list[str | pathlib.Path] = []
    for item in folders.items():
        arguments += item
    run_program(request.module.PROGRAM, "make", *arguments)
    return folders
