"""Conditional entropy of text: a baseline for a model's bits per byte."""

from __future__ import annotations

import numpy as np

from mtfrun.errors import InputError

# A context and the byte after it are one uint64.
MAX_ORDER = 7


def conditional_entropy(text: bytes, order: int) -> float:
    """Returns H(byte | the `order` bytes before it) of `text`, in bits per byte; `order` in 0..7.

    H = -(1/n) sum over (c, x) of N(c, x) log2(N(c, x) / N(c)), where N counts contexts c and their
    continuations x: the code length by frequencies of the same text, a lower bound for unseen text.

    Examples:
      >>> conditional_entropy(b"aabb" * 100, 0)
      1.0
      >>> conditional_entropy(b"abab" * 100, 1)
      0.0
    """
    if not 0 <= order <= MAX_ORDER:
        raise InputError(f"conditional_entropy: order must be in 0..{MAX_ORDER}, not {order}")
    if len(text) <= order:
        raise InputError(f"conditional_entropy: {len(text)} byte(s) are too few for order {order}")
    data = np.frombuffer(text, np.uint8).astype(np.uint64)
    num_contexts = data.size - order
    context = np.zeros(num_contexts, np.uint64)
    for offset in range(order):
        context = (context << np.uint64(8)) | data[offset : offset + num_contexts]
    continued = (context << np.uint64(8)) | data[order:]
    # H(x | c) = H(c, x) - H(c).
    return float(_entropy(continued) - _entropy(context)) + 0.0


def _entropy(symbols: np.ndarray) -> float:
    _, counts = np.unique(symbols, return_counts=True)
    frequencies = counts / symbols.size
    return float(-(frequencies * np.log2(frequencies)).sum())
