"""The language models of the benchmarks and their batches."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LmConfig:
    """Sizes of a decoder-only Transformer and its batch.

    Attributes:
      d_model: the size of the activations.
      d_ff: the hidden size of the feed-forward layers.
      num_layers: the number of blocks.
      num_heads: the number of attention heads.
      vocabulary: the vocabulary size.
      batch: sequences a step.
      length: tokens a sequence.
    """

    d_model: int
    d_ff: int
    num_layers: int
    num_heads: int
    vocabulary: int
    batch: int
    length: int

    @property
    def d_kv(self) -> int:
        return self.d_model // self.num_heads


CONFIGS = {
    "tiny": LmConfig(32, 64, 2, 2, 64, 4, 16),
    "quickstart": LmConfig(128, 512, 3, 4, 384, 8, 128),  # runs/quickstart.gin
    "small": LmConfig(256, 1024, 4, 4, 8192, 8, 128),
    "medium": LmConfig(512, 2048, 6, 8, 32128, 8, 256),
    "deep": LmConfig(256, 1024, 24, 4, 8192, 8, 128),
    "deeper": LmConfig(256, 1024, 48, 4, 8192, 8, 128),
}


def batch(config: LmConfig, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns (inputs, targets), int32 [batch, length], the inputs being the targets shifted."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, config.vocabulary, (config.batch, config.length)).astype(np.int32)
    inputs = np.pad(targets[:, :-1], [(0, 0), (1, 0)])
    return inputs, targets
