"""Tasks made from running text: fill in the blank, next sentence prediction."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.source import TEXT
from mtfrun.data.task import Fields, StreamPreprocessor, field_of

_BEHIND_SENTENCE = re.compile(rb"(?<=[.!?])(?![.!?])")


@dataclasses.dataclass(frozen=True)
class FillInTheBlank:
    """Makes two examples of a text by replacing alternate segments of words by "X".

    "fill: The fat X the X" with "X cat sat on X mat.", and the reverse. Texts are split between
    words with a probability from 1 / (words + 2) to 1/2, drawn log-uniformly; draws depend only on
    the seed and the text. Texts of fewer than two words are dropped. `label` precedes the inputs.
    """

    text_key: str = TEXT
    label: str = "fill: "
    seed: int = 0

    def __call__(self, fields: Fields) -> Sequence[Fields]:
        text = field_of(self, fields, self.text_key)
        words = text.split()
        if len(words) < 2:
            return []
        digest = hashlib.blake2b(text, digest_size=8).digest()
        rng = np.random.default_rng([self.seed, int.from_bytes(digest)])
        probability = math.exp(rng.uniform(-math.log(len(words) + 2), -math.log(2)))
        breaks = np.flatnonzero(rng.random(len(words) - 1) < probability) + 1
        if not breaks.size:
            breaks = rng.integers(1, len(words), size=1)
        bounds = itertools.pairwise([0, *breaks.tolist(), len(words)])
        segments = [b" ".join(words[begin:end]) for begin, end in bounds]
        even, odd = (
            b" ".join(s if i % 2 == parity else b"X" for i, s in enumerate(segments))
            for parity in (0, 1)
        )
        label = self.label.encode()
        return [{INPUTS: label + even, TARGETS: odd}, {INPUTS: label + odd, TARGETS: even}]


@dataclasses.dataclass(frozen=True)
class NextSentencePrediction(StreamPreprocessor):
    """Next sentence prediction: "next" or "not_next".

    "nsp: sentence1: The man left. sentence2: Penguins cannot fly.". Pairs of consecutive sentences
    of a line are drawn from a shuffle buffer, two at a time; with probability `1 - p_neighbors` the
    two pairs exchange their second sentences.

    Attributes:
      reuse_sentences: whether a sentence is the second of one pair and the first of the next.
      label_sentences: whether to write "sentence1: " and "sentence2: " before the sentences.
      p_neighbors: the probability that two pairs are not exchanged.
      label: the text before the inputs.
      buffer_size: the number of pairs in the shuffle buffer; 1 does not shuffle.
      seed: the seed of all draws, which happen once, before tokenisation.
    """

    text_key: str = TEXT
    reuse_sentences: bool = True
    label_sentences: bool = False
    p_neighbors: float = 0.5
    label: str = "nsp: "
    buffer_size: int = 50_000
    seed: int = 0

    def process_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        rng = np.random.default_rng(self.seed)
        names = (b"sentence1: ", b"sentence2: ") if self.label_sentences else (b"", b"")
        texts = (field_of(self, fields, self.text_key) for fields in examples)
        pairs = (pair for text in texts for pair in self._neighbours(text))
        drawn = _shuffle(pairs, self.buffer_size, rng)
        for first, second in zip(drawn, drawn, strict=False):  # drops an odd last pair
            are_next = rng.random() < self.p_neighbors
            ends = (first[1], second[1]) if are_next else (second[1], first[1])
            for begin, end in zip((first[0], second[0]), ends, strict=True):
                inputs = b"%s%s%s %s%s" % (self.label.encode(), names[0], begin, names[1], end)
                yield {INPUTS: inputs, TARGETS: b"next" if are_next else b"not_next"}

    def _neighbours(self, text: bytes) -> Iterator[tuple[bytes, bytes]]:
        for line in text.split(b"\n"):
            sentences = list(filter(None, map(bytes.strip, _BEHIND_SENTENCE.split(line))))
            if self.reuse_sentences:
                yield from itertools.pairwise(sentences)
            else:
                yield from zip(sentences[::2], sentences[1::2], strict=False)


def _shuffle(
    pairs: Iterable[tuple[bytes, bytes]], buffer_size: int, rng: np.random.Generator
) -> Iterator[tuple[bytes, bytes]]:
    buffer: list[tuple[bytes, bytes]] = []
    remaining = iter(pairs)
    while True:
        buffer += itertools.islice(remaining, max(buffer_size, 1) - len(buffer))
        if not buffer:
            return
        i = int(rng.integers(len(buffer)))
        buffer[i], buffer[-1] = buffer[-1], buffer[i]
        yield buffer.pop()
