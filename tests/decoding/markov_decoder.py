"""A decoder whose logits depend on the token before only, by a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.decoding import Decoder, TokenTexts

VOCAB = mtf.Dimension("vocab", 8)
LAYOUT = "batch:data;vocab:model"
# What the ids write: a letter each, the first two are special.
TOKEN_TEXTS = TokenTexts([b"", b"", b"a", b"b", b"c", b"d", b"e", b"f"])


def markov_decoder(mesh: mtf.Mesh, table: np.ndarray) -> Decoder:
    """Returns a decoder with the logits table[previous token]; its state is that token."""
    before = mtf.Dimension("before", VOCAB.size)
    logits = mtf.import_tf_tensor(mesh, np.asarray(table, np.float32), [before, VOCAB])

    def step(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        return mtf.gather(logits, ids, before), state

    return Decoder(step, ())


def follows(successors: dict[int, int]) -> np.ndarray:
    """Returns a table in which the successor of every token has the largest logit."""
    table = np.zeros([VOCAB.size, VOCAB.size], np.float32)
    for token, successor in successors.items():
        table[token, successor] = 1.0
    return table
