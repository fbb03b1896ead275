"""Training of SentencePiece models."""

from __future__ import annotations

import dataclasses
import heapq
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import sentencepiece

from mtfrun.data.errors import DataError
from mtfrun.display import progress
from mtfrun.errors.checks import COUNT, SHARE_ABOVE_0, Range, check_choice, check_range
from mtfrun.files import Worker

T = TypeVar("T")

# SentencePiece leaves longer sentences out.
_MAX_SENTENCE_BYTES = 4096
# SentencePiece sums in as many parts, so that the result depends on their number, not on the
# processors there are.
_NUM_THREADS = 16
_SEED = 0
_NO_TEXT = "there is no text to train a vocabulary on: choose another source or split"
_NORMALIZATIONS = ("identity", "nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")


@dataclasses.dataclass(frozen=True)
class SentencePieceTraining:
    """Unigram models with T5's ids for padding, end and unknown; equal texts give equal models.

    Attributes:
      size: number of pieces, extra ids not included.
      max_bytes: the size above which a text is sampled, with a fixed seed; SentencePiece needs
        about 30 times as much memory.
      with_byte_fallback: whether 256 pieces are bytes, for characters without a piece, which are
        unknown otherwise, as in T5's model.
      normalization: "identity", with which `decode` returns the texts, or T5's "nmt_nfkc": NFKC,
        one space for line ends and for several spaces.
      character_coverage: the share of the text's characters with a piece; the rarest are unknown.
    """

    size: int
    max_bytes: int = 50_000_000
    with_byte_fallback: bool = True
    normalization: str = "identity"
    character_coverage: float = 0.9995

    def __post_init__(self) -> None:
        check_range("size", self.size, COUNT)
        check_range("max_bytes", self.max_bytes, Range(_MAX_SENTENCE_BYTES, whole=True))
        check_range("character_coverage", self.character_coverage, SHARE_ABOVE_0)
        check_choice("normalization", self.normalization, _NORMALIZATIONS)


class TrainedModel:
    def __init__(self, proto: bytes, sample: list[bytes]):
        self.proto = proto
        processor = sentencepiece.SentencePieceProcessor(model_proto=proto)
        self.num_pieces = int(processor.get_piece_size())
        self.num_bytes = sum(map(len, sample))
        num_ids = sum(len(ids) for ids in processor.EncodeAsNumpy(sample))
        num_characters = sum(len(part.decode("utf-8", "replace")) for part in sample)
        self.characters_per_token = num_characters / max(1, num_ids)


def train_sentencepiece(
    texts: Iterable[bytes], training: SentencePieceTraining, expected_bytes: int | None = None
) -> TrainedModel:
    with progress.Work("reading texts", expected_bytes, "B") as reading:
        sample = sample_of(sentences(_note_sizes(texts, reading)), training.max_bytes)
    if not sample:
        raise DataError(_NO_TEXT)
    pieces = f"{training.size:,} pieces from {sum(map(len, sample)) / 1e6:.1f} MB of text"
    with progress.waiting(f"training {pieces}", f"trained {pieces}"):
        return _interruptible(lambda: TrainedModel(_train(sample, training), sample))


def _note_sizes(texts: Iterable[bytes], reading: progress.Work) -> Iterator[bytes]:
    for text in texts:
        yield text
        reading.advance(len(text))


def _train(sample: list[bytes], training: SentencePieceTraining) -> bytes:
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=model,
            model_type="unigram",
            vocab_size=training.size,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            byte_fallback=training.with_byte_fallback,
            normalization_rule_name=training.normalization,
            remove_extra_whitespaces=training.normalization != "identity",
            character_coverage=training.character_coverage,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            num_threads=_NUM_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise DataError(_remedy(str(error), training)) from error
    return model.getvalue()


def _interruptible(function: Callable[[], T]) -> T:
    """Returns the function's result; meanwhile this thread handles signals.

    Python calls handlers in the main thread, between bytecodes: SentencePiece's code would delay
    them for minutes. An exception of a handler ends the wait; the thread ends with the process.
    """
    results: list[T] = []
    worker: Worker[object] = Worker(lambda: results.append(function()), "SentencePiece")
    worker.start()
    worker.stop()
    if worker.error is not None:
        raise worker.error
    return results[0]


def sentences(texts: Iterable[bytes]) -> Iterator[bytes]:
    r"""Yields parts of the texts of at most 4,096 bytes.

    They end behind a line if possible, else at a space, which is left out: SentencePiece puts one
    before every part.

    >>> list(sentences([b"a line\nanother", b""]))
    [b'a line\nanother']
    """
    for text in texts:
        begin = 0
        while begin < len(text):
            end = _end_of_part(text, begin)
            yield text[begin:end]
            begin = end + (text[end : end + 1] == b" ")


def _end_of_part(text: bytes, begin: int) -> int:
    limit = begin + _MAX_SENTENCE_BYTES
    if limit >= len(text):
        return len(text)
    line_end = text.rfind(b"\n", begin, limit)
    if line_end >= begin:
        return line_end + 1
    space = text.rfind(b" ", begin, limit)
    if space > begin:
        return space
    while limit > begin + 1 and text[limit] & 0xC0 == 0x80:  # within a character of UTF-8
        limit -= 1
    return limit


def sample_of(parts: Iterable[bytes], max_bytes: int) -> list[bytes]:
    """Returns all parts, or a random sample of `max_bytes`, holding no more in memory."""
    generator = np.random.default_rng(_SEED)
    heap: list[tuple[float, int, bytes]] = []  # the largest number first
    total = 0
    largest = np.inf
    for index, part in enumerate(parts):
        number = generator.random()
        if number > largest:
            continue
        heapq.heappush(heap, (-number, index, part))
        total += len(part)
        while total > max_bytes:
            dropped, _, text = heapq.heappop(heap)
            total -= len(text)
            largest = -dropped
    return [part for _, _, part in sorted(heap, key=lambda entry: entry[1])]


def _remedy(message: str, training: SentencePieceTraining) -> str:
    size = training.size
    if match := re.search(r"value <= (\d+)", message):
        return f"the text is too small for {size} pieces: choose --size={match[1]} or less"
    if match := re.search(r"required_chars\. \d+ vs (\d+)", message):
        bytes_of_it = ", of which 256 are bytes" if training.with_byte_fallback else ""
        return (
            f"{size} pieces are too few for the characters of the text{bytes_of_it}: choose "
            f"--size={match[1]} or more, or a smaller --character_coverage"
        )
    if "sentences_.empty" in message:
        return _NO_TEXT
    return f"SentencePiece cannot train a model: {' '.join(message.split())}"
