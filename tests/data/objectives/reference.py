"""A slow implementation of T5's objectives on lists, and what tests of objectives share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.data import ByteVocabulary, Selection
from mtfrun.data.objectives.objective import FeatureLengths, Objective, RawText

END = 1
FIRST_SENTINEL = 32_099
NUM_SENTINELS = 100


class T5Vocabulary(ByteVocabulary):
    """The special ids of T5's vocabulary of 32,100 ids, and bytes for text."""

    unpadded_size = 32_100
    sentinels = np.arange(FIRST_SENTINEL, FIRST_SENTINEL - NUM_SENTINELS, -1, dtype=np.int32)

    def __init__(self) -> None:
        super().__init__(32_100)


VOCABULARY = T5Vocabulary()


def raw_text(texts: Sequence[Sequence[int]], raw_length: int) -> RawText:
    ids = np.zeros([len(texts), raw_length], np.int32)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    return with_noise(RawText(ids, np.array([len(text) for text in texts]), ()))


def random_text(
    rng: np.random.Generator, rows: int, raw_length: int, last_length: int | None = None
) -> RawText:
    lengths = [raw_length] * (rows - 1) + [last_length or raw_length]
    return raw_text([rng.integers(3, 32_000, length).tolist() for length in lengths], raw_length)


def texts_of(text: RawText) -> list[list[int]]:
    return [ids[:length].tolist() for ids, length in zip(text.ids, text.lengths, strict=True)]


def with_noise(text: RawText, epoch: int = 0, seed: int = 0) -> RawText:
    rows = np.arange(len(text.ids))
    return text._replace(generators=Selection(rows, np.full_like(rows, epoch), seed).generators())


def of_lengths(inputs: int, targets: int) -> FeatureLengths:
    """Returns the lengths of separate features."""
    return FeatureLengths(inputs, targets, inputs + targets)


def padded(ids: Sequence[int], length: int) -> list[int]:
    """Returns the ids, cut before the end if they are too long, the end, and zeros."""
    ended = [*ids[: length - 1], END]
    return ended + [0] * (length - len(ended))


def with_sentinels(ids: Sequence[int], is_replaced: Sequence[bool]) -> list[int]:
    """Returns the ids, each run of replaced ones as one sentinel, counted down."""
    result: list[int] = []
    sentinel = FIRST_SENTINEL
    for place, (token, replaced) in enumerate(zip(ids, is_replaced, strict=True)):
        if not replaced:
            result.append(token)
        elif place == 0 or not is_replaced[place - 1]:
            result.append(sentinel)
            sentinel -= 1
    return result


def restored(inputs: Sequence[int], targets: Sequence[int]) -> list[int]:
    def is_sentinel(token: int) -> bool:
        return FIRST_SENTINEL - NUM_SENTINELS < token <= FIRST_SENTINEL

    parts: dict[int, list[int]] = {}
    part: list[int] = []
    for token in targets[: list(targets).index(END)]:
        if is_sentinel(token):
            part = parts.setdefault(token, [])
        else:
            part.append(token)
    text: list[int] = []
    for token in inputs[: list(inputs).index(END)]:
        text += parts[token] if is_sentinel(token) else [token]
    return text


def t5_lengths(inputs_length: int, density: float, mean: float) -> tuple[int, int]:
    """Returns the lengths of the text and of the targets, by trying one length after the other."""

    def lengths(tokens: int) -> tuple[int, int]:
        noise = round(tokens * density)
        spans = round(noise / mean)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs_length - 1
    while lengths(tokens + 1)[0] <= inputs_length:
        tokens += 1
    targets_length = lengths(tokens)[1]
    if density == 0.5 and targets_length > inputs_length:
        tokens, targets_length = tokens - 1, targets_length - 1
    return tokens, targets_length


def noise_and_spans(length: int, density: float, mean: float) -> tuple[int, int]:
    noise = int(np.round(np.float32(length) * np.float32(density)))
    noise = min(max(noise, 1), length - 1)
    spans = max(int(np.round(np.float32(noise) / np.float32(mean))), 1)
    return noise, spans


def assert_rows_have_their_noise(objective: Objective) -> None:
    """Asserts that noise does not depend on the batch, but on the epoch."""
    text = random_text(np.random.default_rng(0), 9, 100, 40)
    lengths = objective.feature_lengths(100, VOCABULARY)
    together = objective(with_noise(text, epoch=2, seed=5), lengths, VOCABULARY)
    for rows in ([8, 0, 3], [5]):
        some = np.array(rows)
        noisy = with_noise(text, epoch=2, seed=5).select_rows(some)
        alone = objective(noisy, lengths, VOCABULARY)
        assert all((alone[name] == together[name][some]).all() for name in together)
    other_epoch = objective(with_noise(text, epoch=3, seed=5), lengths, VOCABULARY)
    assert all((other_epoch[name] != together[name]).any() for name in together)
