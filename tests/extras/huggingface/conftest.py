"""Imported folders that several tests of a file use."""

from __future__ import annotations

import functools
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
