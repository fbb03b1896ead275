"""Rows without some of their examples, whose places are padding."""

from __future__ import annotations

import numpy as np

from mtfrun.data.rows.batches import Batch, Density, Places, Rows
from mtfrun.data.rows.order import Selection

_SEGMENTATION = "_segmentation"


class RowsWithHoles(Rows):
    """Rows of which some examples are padding, without a loss; all others keep their places.

    In rows without segments, such as an objective's, a whole row is padding that holds a part of
    one of these examples.
    """

    def __init__(self, rows: Rows, examples: np.ndarray):
        self._rows, self._removed = rows, examples
        places = rows.find(examples)
        order = np.argsort(places.rows, kind="stable")
        self._numbers, self._segments = places.rows[order], places.segments[order]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, selection: Selection) -> Batch:
        batch = self._rows.take(selection)
        first = np.searchsorted(self._numbers, selection.rows, "left")
        stop = np.searchsorted(self._numbers, selection.rows, "right")
        for row in np.flatnonzero(first < stop).tolist():
            self._empty(batch, row, self._segments[first[row] : stop[row]])
        return batch

    def _empty(self, batch: Batch, row: int, segments: np.ndarray) -> None:
        features = [n.removesuffix(_SEGMENTATION) for n in batch if n.endswith(_SEGMENTATION)]
        are_holes = {
            feature: np.isin(batch[feature + _SEGMENTATION][row], segments) for feature in features
        }
        for name, values in batch.items():
            feature = next((x for x in features if name == x or name.startswith(f"{x}_")), None)
            hole = slice(None) if feature is None else are_holes[feature]
            values[row, hole] = self._rows.padding_of(name)

    def padding_of(self, feature: str) -> int:
        return self._rows.padding_of(feature)

    def find(self, examples: np.ndarray) -> Places:
        places = self._rows.find(examples)
        stays = ~np.isin(examples[places.examples], self._removed)
        return Places(*(values[stays] for values in places))

    @property
    def density(self) -> Density | None:
        return self._rows.density
