"""The encoder-decoder models of the decoding benchmark, their weights and their inputs."""

from __future__ import annotations

import argparse
import dataclasses
import zlib

import numpy as np


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """Sizes of an encoder-decoder Transformer, its batch and its lengths.

    Attributes:
      d_model: the size of the activations.
      d_ff: the hidden size of the feed-forward layers.
      num_layers: the blocks of the encoder, and of the decoder.
      num_heads: the number of attention heads.
      vocabulary: the vocabulary size.
      batch: sequences that are decoded together.
      inputs_length: ids of an input, or of a prompt.
      targets_length: ids that are decoded.
    """

    d_model: int
    d_ff: int
    num_layers: int
    num_heads: int
    vocabulary: int
    batch: int = 16
    inputs_length: int = 64
    targets_length: int = 64

    @property
    def d_kv(self) -> int:
        return self.d_model // self.num_heads


CONFIGS = {
    "tiny": DecodeConfig(32, 64, 2, 2, 64, batch=4, inputs_length=16, targets_length=32),
    "small": DecodeConfig(256, 1024, 4, 4, 8192),
    "medium": DecodeConfig(512, 2048, 6, 8, 32128),
}
ALPHA = 0.6
# Not an id, so that every search continues to the full length.
NO_END = -1


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `sizes` reads."""
    parser.add_argument("--config", default="small", choices=CONFIGS)
    parser.add_argument("--batch", type=int, help="sequences; by default the configuration's")


def sizes(arguments: argparse.Namespace) -> DecodeConfig:
    """Returns the sizes that a program's arguments name."""
    config = CONFIGS[arguments.config]
    return dataclasses.replace(config, batch=arguments.batch or config.batch)


def weight(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the value of a variable by mtfrun's name and shape, the same in every process."""
    name = path.rpartition("/")[2]
    if name == "scale":
        return np.ones(shape, np.float32)
    fan_in = int(np.prod(shape[:-1])) if name == "output" else shape[0]
    stddev = 1.0 if "embedding" in path or "position" in path else fan_in**-0.5
    if name == "query":
        stddev *= shape[-1] ** -0.5
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    return (rng.standard_normal(shape) * stddev).astype(np.float32)


def inputs(config: DecodeConfig) -> np.ndarray:
    """Returns ids, int32 [batch, inputs_length], none of them padding."""
    return prompts(config, config.inputs_length)


def prompts(config: DecodeConfig, length: int) -> np.ndarray:
    """Returns ids, int32 [batch, length], none of them padding."""
    rng = np.random.default_rng(1)
    return rng.integers(2, config.vocabulary, [config.batch, length]).astype(np.int32)
