from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from mtfrun.data import IMAGES, INPUTS, TARGETS, Data
from mtfrun.data.vocabularies.vocabulary import before_end
from mtfrun.errors import InputError
from mtfrun.experiment import Images

# At most so many ids of a target are a prompt.
_MOST_IDS = 16


class FirstRows:
    """The first rows of training as an `experiment.Source`, which is not a split of the data.

    A text is the first input of a row or, without inputs, the first half of its first target, at
    most 16 ids. There are fewer than `count` if the first rows are alike. `settings`, such as
    "decode_length", that the inference lacks are ignored.
    """

    split: str | None = None

    def __init__(
        self, data: Data, seed: int, count: int, settings: Mapping[str, object] | None = None
    ):
        self.settings = dict(settings or {})
        self._data = data
        self._seed = seed
        self._count = count

    def texts(self) -> Sequence[bytes]:
        batch = self._batch()
        name = next((name for name in (INPUTS, TARGETS) if name in batch), None)
        vocabulary = None if name is None else self._data.vocabularies.get(name)
        if name is None or vocabulary is None:
            raise InputError(f"the rows of {type(self._data).__name__} have no texts")
        texts: dict[bytes, None] = {}
        for row in batch[name]:
            ids = before_end(np.trim_zeros(row, "b"), vocabulary.end_id)
            if name == TARGETS:
                ids = ids[: min(_MOST_IDS, len(ids) // 2)]
            texts[vocabulary.decode(ids).encode()] = None
        texts.pop(b"", None)
        if not texts:
            raise InputError("the first rows of training have no text to decode")
        return list(texts)[: self._count]

    def images(self, read: Callable[[str], np.ndarray]) -> Images:
        pixels = self._batch().get(IMAGES)
        if pixels is None:
            raise InputError(f"the rows of {type(self._data).__name__} have no images")

        def records() -> Iterator[tuple[np.ndarray, dict[str, object]]]:
            for index, image in enumerate(pixels[: self._count]):
                yield image, {"index": index}

        return Images(len(pixels[: self._count]), records())

    def _batch(self) -> Mapping[str, np.ndarray]:
        # More rows than inputs, since some texts may be equal or empty.
        return next(self._data.train(4 * self._count, seed=self._seed))
