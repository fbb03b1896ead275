"""grain's shuffle and its inverse: where a row stands in an epoch, without computing the order.

grain shuffles by a permutation with random access, a Simon cipher of four rounds (Beaulieu et al.
2013, https://eprint.iacr.org/2013/404) on blocks just large enough for the highest index, applied
until the result is an index (cycle walking). Deciphering is as cheap, and vectorised here.
"""

from __future__ import annotations

import grain
import numpy as np

_ROUNDS = 4
_LEAST_BLOCK_BITS = 16
_WORD = 0xFFFFFFFF
# So few rows are shuffled to find one of them: deciphering takes longer for fewer.
_FEW_ROWS = 256


class Shuffle:
    """The rows of one component in the order of each epoch.

    Args:
      size: the number of rows.
      seed: from which grain derives the seeds of the epochs.
    """

    def __init__(self, size: int, seed: int):
        self._size = size
        # grain 0.2.18 takes too small blocks for 2^k + 1 rows with an even k from 16 on: the last
        # row is never drawn, and another one twice. There, one more row is shuffled and left out.
        self._drawn = size + (size > 1 << _LEAST_BLOCK_BITS and _is_power_of_4(size - 1))
        self._shuffled = grain.MapDataset.range(self._drawn).seed(seed).shuffle()
        self._repeated = self._shuffled.repeat()

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """Returns the rows that are drawn at numbers, counted through all epochs, int64 [rows]."""
        return np.array([self._row(number) for number in numbers.tolist()], np.int64)

    def _row(self, number: int) -> int:
        epoch, row = divmod(number, self._size)
        while True:
            row = int(self._repeated[epoch * self._drawn + row])
            if row < self._size:
                return row

    def index_in_epoch(self, rows: np.ndarray, epoch: int) -> np.ndarray:
        """Returns where rows stand in an epoch, int64 [rows]."""
        if self._size < _FEW_ROWS:
            order = self.at(epoch * self._size + np.arange(self._size))
            index: np.ndarray = np.argsort(order)[rows]
            return index
        bits = max(_LEAST_BLOCK_BITS, (self._drawn - 2).bit_length())
        bits += bits % 2
        keys = _round_keys((self._shuffled._seed + epoch) % (1 << 32))
        indices = rows.astype(np.uint64)
        is_open = np.ones(indices.shape, bool)
        while is_open.any():
            indices[is_open] = _decipher(indices[is_open], keys, bits // 2)
            is_open = indices >= self._size
        return indices.astype(np.int64)


def _is_power_of_4(number: int) -> bool:
    return number.bit_count() == 1 and number.bit_length() % 2 == 1


def _decipher(values: np.ndarray, keys: list[int], word_bits: int) -> np.ndarray:
    mask = np.uint64((1 << word_bits) - 1)
    left, right = values >> np.uint64(word_bits), values & mask
    for number in range(_ROUNDS - 1, 0, -2):
        right = right ^ _mix(left, word_bits) ^ (np.uint64(keys[number]) & mask)
        left = left ^ _mix(right, word_bits) ^ (np.uint64(keys[number - 1]) & mask)
    return left << np.uint64(word_bits) | right


def _mix(word: np.ndarray, word_bits: int) -> np.ndarray:
    """The function of Simon's rounds."""
    one, two, eight = (_rotate(word, by, word_bits) for by in (1, 2, 8))
    mixed: np.ndarray = one & eight ^ two
    return mixed


def _rotate(word: np.ndarray, by: int, word_bits: int) -> np.ndarray:
    rotated = word << np.uint64(by) | word >> np.uint64(word_bits - by)
    return rotated & np.uint64((1 << word_bits) - 1)


def _round_keys(seed: int) -> list[int]:
    """Returns what std::seed_seq of C++ generates from a seed: four words, [rand.util.seedseq]."""
    count, words = _ROUNDS, [0x8B8B8B8B] * _ROUNDS
    # With t = (n - 1) / 2, p = (n - t) / 2, q = p + t and m = max(s + 1, n), for n = 4 and s = 1.
    p, q = 1, 2
    for k in range(count):
        mixed = _mix_seed(words[k] ^ words[(k + p) % count] ^ words[k - 1], 1664525)
        added = (mixed + (1 if k == 0 else k + seed if k == 1 else k)) & _WORD
        words[(k + p) % count] = (words[(k + p) % count] + mixed) & _WORD
        words[(k + q) % count] = (words[(k + q) % count] + added) & _WORD
        words[k] = added
    for k in range(count, 2 * count):
        total = words[k % count] + words[(k + p) % count] + words[(k - 1) % count]
        mixed = _mix_seed(total & _WORD, 1566083941)
        removed = (mixed - k % count) & _WORD
        words[(k + p) % count] ^= mixed
        words[(k + q) % count] ^= removed
        words[k % count] = removed
    return words


def _mix_seed(word: int, factor: int) -> int:
    return factor * (word ^ word >> 27) & _WORD
