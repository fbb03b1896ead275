"""Caches of ids in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtfrun.data.token_cache import TokenCache

# Rows find no stored plan there, and cannot store one.
NOWHERE = Path("/dev/null/cache")


def token_cache(
    examples: Sequence[Sequence[Sequence[int]]],
    features: Sequence[str],
    directory: Path = NOWHERE,
) -> TokenCache:
    """Returns a cache of the ids of every example's features."""
    texts = [text for example in examples for text in example]
    tokens = np.array([token for text in texts for token in text], np.uint16)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    shape = (len(examples), len(features))
    manifest = {"features": list(features), "files": {"tokens.bin": "", "ends.npy": ""}}
    return TokenCache(directory, tokens, ends.reshape(shape), manifest)
