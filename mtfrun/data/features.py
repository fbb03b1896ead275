"""Names and shapes of the features of a batch."""

from __future__ import annotations

from mtfrun import mtf

INPUTS = "inputs"
TARGETS = "targets"


def ids_shape(length: int) -> mtf.Shape:
    """Returns the shape {length} of a row of ids."""
    return mtf.Shape([mtf.Dimension("length", length)])


def packed_features(length: int, name: str = TARGETS) -> dict[str, mtf.Shape]:
    """Returns the shapes {length} of rows that hold several texts, by feature.

    `name` has ids, 0 for padding, which has no loss; `{name}_segmentation` the number of each id's
    text in the row, from 1, 0 for padding; `{name}_position` the position in its text, from 0.
    """
    names = (name, f"{name}_segmentation", f"{name}_position")
    return dict.fromkeys(names, ids_shape(length))
