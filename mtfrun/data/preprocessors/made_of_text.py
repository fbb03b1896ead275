"""Tasks that running text gives by itself: blanks to fill in, sentences that follow each other."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.preprocessors.preprocessor import Fields, StreamPreprocessor, field_of
from mtfrun.data.sources.source import TEXT

_BLANK = b"X"
_BEHIND_SENTENCE = re.compile(rb"(?<=[.!?])(?![.!?])")


@dataclasses.dataclass(frozen=True)
class FillInTheBlank:
    """Two examples of a text, in which alternate segments of words are replaced by "X".

    "fill: The fat X the X" with "X cat sat on X mat.", and the other way round. The places are
    drawn once, by the seed and the text: between two words with a probability between 1 / (words +
    2) and 1/2, of which the logarithm is uniform. Texts of fewer than two words are left out.

    Attributes:
      text_key: the field.
      label: before the inputs.
      seed: of the places.
    """

    text_key: str = TEXT
    label: str = "fill: "
    seed: int = 0

    def __call__(self, fields: Fields) -> Sequence[Fields]:
        """Returns inputs and targets."""
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
            b" ".join(s if i % 2 == parity else _BLANK for i, s in enumerate(segments))
            for parity in (0, 1)
        )
        label = self.label.encode()
        return [{INPUTS: label + even, TARGETS: odd}, {INPUTS: label + odd, TARGETS: even}]


@dataclasses.dataclass(frozen=True)
class NextSentencePrediction(StreamPreprocessor):
    """Whether the second sentence follows the first one: "next" or "not_next".

    "nsp: sentence1: The man left. sentence2: Penguins cannot fly.". Pairs of neighbours within the
    lines of all texts are drawn from a buffer, two at a time; with the probability
    `1 - p_neighbors` the two exchange their second sentences.

    Attributes:
      text_key: the field.
      reuse_sentences: whether a sentence is the second of one pair and the first of the next.
      label_sentences: whether "sentence1: " and "sentence2: " stand before them.
      p_neighbors: see above.
      label: before the inputs.
      buffer_size: pairs among which is drawn; 1 keeps their order.
      seed: of all draws, which happen once, before the texts become ids.
    """

    text_key: str = TEXT
    reuse_sentences: bool = True
    label_sentences: bool = False
    p_neighbors: float = 0.5
    label: str = "nsp: "
    buffer_size: int = 50_000
    seed: int = 0

    def of_all(self, examples: Iterable[Fields]) -> Iterator[Fields]:
        """Yields inputs and targets."""
        rng = np.random.default_rng(self.seed)
        texts = (field_of(self, fields, self.text_key) for fields in examples)
        pairs = (pair for text in texts for pair in self._neighbours(text))
        drawn = _shuffled(pairs, self.buffer_size, rng)
        for first, second in zip(drawn, drawn, strict=False):  # a last single pair is left out
            are_next = rng.random() < self.p_neighbors
            ends = (first[1], second[1]) if are_next else (second[1], first[1])
            for begin, end in zip((first[0], second[0]), ends, strict=True):
                yield {
                    INPUTS: self._inputs(begin, end),
                    TARGETS: b"next" if are_next else b"not_next",
                }

    def _neighbours(self, text: bytes) -> Iterator[tuple[bytes, bytes]]:
        for line in text.split(b"\n"):
            sentences = list(filter(None, map(bytes.strip, _BEHIND_SENTENCE.split(line))))
            if self.reuse_sentences:
                yield from itertools.pairwise(sentences)
            else:
                yield from zip(sentences[::2], sentences[1::2], strict=False)

    def _inputs(self, first: bytes, second: bytes) -> bytes:
        names = (b"sentence1: ", b"sentence2: ") if self.label_sentences else (b"", b"")
        return b"%s%s%s %s%s" % (self.label.encode(), names[0], first, names[1], second)


def _shuffled(
    pairs: Iterable[tuple[bytes, bytes]], buffer_size: int, rng: np.random.Generator
) -> Iterator[tuple[bytes, bytes]]:
    """Yields all pairs, each drawn from the next `buffer_size` ones."""
    buffer: list[tuple[bytes, bytes]] = []
    for pair in pairs:
        buffer.append(pair)
        if len(buffer) >= buffer_size:
            yield _drawn(buffer, rng)
    while buffer:
        yield _drawn(buffer, rng)


def _drawn(buffer: list[tuple[bytes, bytes]], rng: np.random.Generator) -> tuple[bytes, bytes]:
    """Removes and returns one pair."""
    i = int(rng.integers(len(buffer)))
    buffer[i], buffer[-1] = buffer[-1], buffer[i]
    return buffer.pop()
