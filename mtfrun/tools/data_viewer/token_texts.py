from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.data.vocabularies.vocabulary import Vocabulary

# A decoder's result for bytes that are not a whole character of UTF-8.
_INVALID = "\ufffd"
# A character of UTF-8 has at most four bytes, and so at most four ids.
_MOST_IDS_OF_A_CHARACTER = 4


def token_texts(vocabulary: Vocabulary, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Returns what each id adds to the decoded text; special ids by name.

    The text of a character of several ids is at the last of them; the ones before have "".

    >>> from mtfrun.data.vocabularies.byte_vocabulary import ByteVocabulary
    >>> token_texts(ByteVocabulary(), [113, 198, 172, 1, 258, 113])
    ['n', '', 'é', '<end>', '<extra_id_0>', 'n']
    """
    names = _SpecialNames(vocabulary)
    numbers = [int(number) for number in ids]
    texts: list[str] = []
    context, first = 0, 0  # the ids of the text before, and those that are not yet decoded
    for i, number in enumerate(numbers):
        if names.is_special(number):
            texts.append(names.name(number))
            _name_undecodable(texts, numbers, first, i, names)
            context = first = i + 1
            continue
        texts.append("")
        text = _text_after(vocabulary, numbers[context:first], numbers[first : i + 1])
        if text.endswith(_INVALID) and i + 1 - first < _MOST_IDS_OF_A_CHARACTER:
            continue  # perhaps the beginning of a character
        if text.startswith(_INVALID):
            _name_undecodable(texts, numbers, first, i, names)
            text = vocabulary.decode([number])
        texts[i] = names.name(number) if text == _INVALID else text
        context, first = first, i + 1
    _name_undecodable(texts, numbers, first, len(numbers), names)
    return texts


def _text_after(vocabulary: Vocabulary, before: list[int], ids: list[int]) -> str:
    """The ids before `ids` decide about spaces."""
    text, whole = vocabulary.decode(before), vocabulary.decode([*before, *ids])
    return whole.removeprefix(text) if whole.startswith(text) else vocabulary.decode(ids)


def _name_undecodable(
    texts: list[str], ids: list[int], first: int, last: int, names: _SpecialNames
) -> None:
    """Names the ids from `first` to before `last`, which are not a character."""
    for i in range(first, last):
        texts[i] = names.name(ids[i])


class _SpecialNames:
    def __init__(self, vocabulary: Vocabulary):
        self._bytes_per_id = vocabulary.bytes_per_id
        self._names = {int(s): f"<extra_id_{i}>" for i, s in enumerate(vocabulary.sentinels)}
        self._names |= {
            vocabulary.pad_id: "<pad>",
            vocabulary.end_id: "<end>",
            vocabulary.unknown_id: "<unknown>",
        }

    def is_special(self, number: int) -> bool:
        return not 0 <= number < len(self._bytes_per_id) or not self._bytes_per_id[number]

    def name(self, number: int) -> str:
        """Returns a replacement character for a part of a character."""
        default = f"<{number}>" if self.is_special(number) else _INVALID
        return self._names.get(number, default)
