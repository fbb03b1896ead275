"""How often a classifier predicts each class for examples of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun.data import INPUTS, TARGETS, TextData
from mtfrun.data.images.image_data import LABELS
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import Progress, require
from mtfrun.models.resnet import CONFUSION_MATRIX

CONFUSION, CLASS_ACCURACY = "confusion", "class_accuracy"

# The column of predictions that are not a label.
_OTHER = "(other)"


def class_counts(
    experiment: Experiment, split: str, tables: Mapping[str, np.ndarray], progress: Progress
) -> dict[str, object]:
    """Returns "confusion" and "class_accuracy" of a classifier, as JSON; {} for other models.

    "confusion" has the "labels" and the "counts" [classes, predicted] over all examples of the
    split; where a text was predicted that is not a label, these have one more column. With any
    number of labels a text there are no counts; the accuracy of a label is the share of texts for
    which its presence is predicted correctly.
    """
    data = experiment.data
    if LABELS in data.class_names and CONFUSION_MATRIX in tables:
        return _as_json(tables[CONFUSION_MATRIX], data.class_names[LABELS])
    vocabulary = data.vocabularies.get(TARGETS)
    if vocabulary is None or not vocabulary.labels:
        return {}
    names = vocabulary.labels
    texts = require(data, TextData, "counting classes", "classify texts")
    examples = texts.evaluated_examples(split, None)
    records = experiment.inference.records([x[INPUTS] for x in examples], progress)
    if vocabulary.has_label_sets:
        is_right = [
            np.isin(np.arange(len(names)), vocabulary.encode(example[TARGETS]))
            == np.isin(np.arange(len(names)), vocabulary.encode(record.texts[0]))
            for example, record in zip(examples, records, strict=True)
        ]
        return {CLASS_ACCURACY: dict(zip(names, np.mean(is_right, axis=0).tolist(), strict=True))}
    numbers = {name: i for i, name in enumerate(names)}
    counts = np.zeros([len(names), len(names) + 1])
    for example, record in zip(examples, records, strict=True):
        target = example[TARGETS].decode("utf-8", "replace")
        # One label, or one for each word; words that are cut off have no prediction.
        pair = (target, record.texts[0])
        words = [pair] if target in numbers else zip(*map(str.split, pair), strict=False)
        for label, predicted in words:
            if label in numbers:
                counts[numbers[label], numbers.get(predicted, len(names))] += 1
    return _as_json(counts if counts[:, -1].any() else counts[:, :-1], names)


def _as_json(counts: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    sizes, predicted = counts.sum(axis=1), [*names, _OTHER][: counts.shape[1]]
    return {
        CONFUSION: {"labels": predicted, "counts": np.rint(counts).astype(int).tolist()},
        CLASS_ACCURACY: {
            name: float(counts[i, i] / sizes[i]) for i, name in enumerate(names) if sizes[i]
        },
    }
