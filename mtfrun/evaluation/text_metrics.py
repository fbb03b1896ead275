"""Metrics of output texts against their references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def text_metrics(outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Returns "exact_match", "bleu" and "chrf" of outputs with one reference each."""
    return {
        "exact_match": exact_match(outputs, references),
        "bleu": bleu(outputs, references),
        "chrf": chrf(outputs, references),
    }


def exact_match(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Returns the share of outputs that equal their reference.

    >>> exact_match(["two", "tree"], ["two", "three"])
    0.5
    """
    return float(np.mean([a == b for a, b in zip(outputs, references, strict=True)]))


def token_accuracy(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> float:
    """Returns the share of the references' tokens that are at the same position in the output.

    >>> token_accuracy([np.array([5, 6, 7, 9])], [np.array([5, 6, 8, 9, 4])])
    0.6
    """
    pairs = list(zip(outputs, references, strict=True))
    correct = sum(int(np.sum(a[: len(b)] == b[: len(a)])) for a, b in pairs)
    return correct / max(sum(len(b) for _, b in pairs), 1)


def bleu(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Returns the corpus BLEU, 0 to 100, with sacrebleu's defaults.

    Papineni et al. 2002, https://aclanthology.org/P02-1040; Post 2018,
    https://aclanthology.org/W18-6319.
    """
    # Importing it takes longer than most commands, which do not need it.
    import sacrebleu  # noqa: PLC0415

    return float(sacrebleu.corpus_bleu(list(outputs), [list(references)]).score)


def chrf(outputs: Sequence[str], references: Sequence[str]) -> float:
    """Returns chrF2, 0 to 100; Popovic 2015, https://aclanthology.org/W15-3049."""
    import sacrebleu  # noqa: PLC0415, as in `bleu`

    return float(sacrebleu.corpus_chrf(list(outputs), [list(references)]).score)
