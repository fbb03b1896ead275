"""Sizes and bandwidths of devices are read from the texts of flags."""

from __future__ import annotations

import pytest

from mtfrun.errors import InputError
from mtfrun.tools.planning import parse_bandwidths, parse_size


def test_sizes_have_decimal_and_binary_units() -> None:
    texts = {"16GB": 16 * 10**9, "15.5 GiB": 15.5 * 2**30, "7": 7, "25GB/s": 25 * 10**9}
    assert {text: parse_size(text) for text in texts} == texts


@pytest.mark.parametrize("text", ["", "GB", "0GB", "16 bytes", "-1GB"])
def test_what_is_no_size_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"is not a number of bytes: write 16GB"):
        parse_size(text)


def test_bandwidths_are_by_axis() -> None:
    assert parse_bandwidths("data:12GB/s, model:1.5GB") == {"data": 12e9, "model": 1.5e9}
    with pytest.raises(InputError, match=r"^'12GB' is not a bandwidth: write data:12GB/s"):
        parse_bandwidths("12GB")
