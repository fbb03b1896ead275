"""The positions at which training draws documents: the inverse of its order, computed directly."""

from __future__ import annotations

import numpy as np

from mtfrun.data.rows.batches import Batches, Places
from mtfrun.data.rows.order import Mixing, Shuffle

# Parameters of the cipher with which grain shuffles, see `Shuffle`.
_ROUNDS, _LEAST_BLOCK_BITS, _WORD = 4, 16, 0xFFFFFFFF
# Below this number all rows are shuffled to find one: deciphering would take longer.
_FEW_ROWS = 256


def find_positions(
    batches: Batches, component: int, examples: np.ndarray, before: int
) -> tuple[Places, np.ndarray]:
    """Returns the places of a component's examples before a position, in ascending order.

    One place for each epoch, and the position of its row, int64 [places]. The time does not depend
    on the number of positions.
    """
    places, shuffle = batches.components[component].find(examples), batches.shuffles[component]
    drawn = batches.mixing.count_before(before)[component]
    epochs = range(-(-drawn // shuffle.size) if places.rows.size else 0)
    in_epochs = [
        epoch * shuffle.size + _index_in_epoch(shuffle, places.rows, epoch) for epoch in epochs
    ]
    within = np.concatenate([np.zeros([0], np.int64), *in_epochs])
    numbers = np.tile(np.arange(places.rows.size), len(epochs))[within < drawn]
    within = within[within < drawn]
    if within.size:  # fails if a version of grain shuffles in another way
        assert shuffle.at(within[:1]) == places.rows[numbers[:1]]
    positions = _positions_of(batches.mixing, component, within, before)
    numbers = numbers[np.argsort(positions, kind="stable")]
    return Places(*(values[numbers] for values in places)), np.sort(positions)


def _positions_of(mixing: Mixing, component: int, within: np.ndarray, before: int) -> np.ndarray:
    """Returns the inverse of `Mixing.at`: the positions of a component's elements, int64 [n].

    All are below the position `before`. They are found by bisection, all at once.
    """
    low, high = np.zeros_like(within), np.full_like(within, before)
    while (low + 1 < high).any():
        middle = (low + high) // 2
        is_later = mixing.counts_before(component, middle) <= within
        low, high = np.where(is_later, middle, low), np.where(is_later, high, middle)
    return low


def _index_in_epoch(shuffle: Shuffle, rows: np.ndarray, epoch: int) -> np.ndarray:
    """Returns the places of rows in an epoch, int64 [rows], by inverting the cipher."""
    if shuffle.size < _FEW_ROWS:
        order = shuffle.at(epoch * shuffle.size + np.arange(shuffle.size))
        index: np.ndarray = np.argsort(order)[rows]
        return index
    bits = max(_LEAST_BLOCK_BITS, (shuffle.drawn - 2).bit_length())
    bits += bits % 2
    keys = _round_keys((shuffle.shuffled._seed + epoch) % (1 << 32))
    indices = rows.astype(np.uint64)
    is_open = np.ones(indices.shape, bool)
    while is_open.any():
        indices[is_open] = _decipher(indices[is_open], keys, bits // 2)
        is_open = indices >= shuffle.size
    return indices.astype(np.int64)


def _decipher(values: np.ndarray, keys: list[int], word_bits: int) -> np.ndarray:
    mask = np.uint64((1 << word_bits) - 1)
    left, right = values >> np.uint64(word_bits), values & mask
    for number in range(_ROUNDS - 1, 0, -2):
        right = right ^ _mix(left, word_bits) ^ (np.uint64(keys[number]) & mask)
        left = left ^ _mix(right, word_bits) ^ (np.uint64(keys[number - 1]) & mask)
    return left << np.uint64(word_bits) | right


def _mix(word: np.ndarray, word_bits: int) -> np.ndarray:
    """The round function of Simon: combines the word rotated by 1, 2 and 8 bits."""
    mask = np.uint64((1 << word_bits) - 1)
    one, two, eight = (
        (word << np.uint64(by) | word >> np.uint64(word_bits - by)) & mask for by in (1, 2, 8)
    )
    mixed: np.ndarray = one & eight ^ two
    return mixed


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
