"""Lengths of prompts as rows of ids."""

from __future__ import annotations

import itertools

from mtfrun.data import TARGETS, ByteVocabulary
from mtfrun.data.prompts import LanguageModelPrompts, PromptLimits


def test_no_prompt_is_longer_than_its_program_expects() -> None:
    num_lengths = 0
    for max_length, decode_length in itertools.product((16, 40, 64, 256), (1, 8, 30, 100, 400)):
        prompt_format = LanguageModelPrompts(
            ByteVocabulary(), PromptLimits(max_length, decode_length)
        )
        longest: dict[int, int] = {}
        for size in range(max_length + 20):
            row = prompt_format.row(b"x" * size)
            lengths = prompt_format.lengths(row)
            assert row.limit <= lengths[TARGETS]
            assert row.prefix <= prompt_format.longest_prefix(lengths) <= lengths[TARGETS]
            longest[lengths[TARGETS]] = max(row.prefix, longest.get(lengths[TARGETS], 0))
        for length, prefix in longest.items():
            # The bound is tight.
            assert prefix == prompt_format.longest_prefix({TARGETS: length})
            num_lengths += 1
    assert num_lengths > 20
