"""Prompts as rows of ids: how long they are, and which of them are read at once."""

from __future__ import annotations

import itertools

from mtfrun.data import TARGETS, ByteVocabulary
from mtfrun.data.prompting import Continuing, PromptLimits


def test_no_prompt_is_longer_than_its_program_expects() -> None:
    seen = 0
    for max_length, decode_length in itertools.product((16, 40, 64, 256), (1, 8, 30, 100, 400)):
        prompting = Continuing(ByteVocabulary(), PromptLimits(max_length, decode_length))
        largest: dict[int, int] = {}
        for size in range(max_length + 20):
            row = prompting.row(b"x" * size)
            lengths = prompting.lengths(row)
            assert row.limit <= lengths[TARGETS]
            assert row.given <= prompting.longest_prompt(lengths) <= lengths[TARGETS]
            largest[lengths[TARGETS]] = max(row.given, largest.get(lengths[TARGETS], 0))
        for length, given in largest.items():
            # No program reads more at once than it takes.
            assert given == prompting.longest_prompt({TARGETS: length})
            seen += 1
    assert seen > 20
