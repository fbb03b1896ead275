"""A conversation, and a small tokenizer with the special tokens of chat templates."""

from __future__ import annotations

from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

CONVERSATION: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, \u00e9!"},
        {"role": "assistant", "content": "Good  day."},
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4"},
    ]
}
SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>"]


def byte_level_tokenizer() -> tokenizers.Tokenizer:
    """Returns a tokenizer of bytes and a few merges, whose ids begin with the special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "d"), ("o", "d"), ("a", "s"), ("as", "s"), ("u", "s")]
    tokens = [*SPECIAL, *alphabet, *(a + b for a, b in merges)]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
