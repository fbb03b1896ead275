"""A configuration without data says so when data are needed."""

from __future__ import annotations

import pytest

from mtfrun.data import DataError, NoSource


def test_reading_names_the_remedy() -> None:
    source = NoSource()
    with pytest.raises(DataError, match="names no data to train on"):
        next(source.examples("train"))
    with pytest.raises(DataError, match="set --gin"):
        source.fingerprint("train")
    with pytest.raises(DataError, match="add a file of data"):
        source.check_split("validation")
