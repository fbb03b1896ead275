"""Imported folders that several tests of a file use."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.tools.conversion.hugging_face.imported_models import Imported, imported


@pytest.fixture(scope="module")
def import_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Imported]:
    """A function that imports a stored folder, once in the tests of a file."""
    return functools.cache(lambda name: imported(name, tmp_path_factory.mktemp("imported")))
