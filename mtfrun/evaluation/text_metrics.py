"""Metrics of predicted texts against their targets.

Every metric of a task is a function of all targets and all predictions, in that order, that returns
values by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def text_metrics(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "exact_match", "bleu" and "chrf" of predictions with one target each."""
    return {
        **exact_match(targets, predictions),
        **bleu(targets, predictions),
        **chrf(targets, predictions),
    }


def exact_match(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "exact_match", the share of predictions that equal their target.

    Examples:
      >>> exact_match(["two", "three"], ["two", "tree"])
      {'exact_match': 0.5}
    """
    pairs = zip(targets, predictions, strict=True)
    return {"exact_match": float(np.mean([target == prediction for target, prediction in pairs]))}


def token_accuracy(targets: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
    """Returns the share of the targets' tokens that are at the same position in the prediction.

    Examples:
      >>> token_accuracy([np.array([5, 6, 8, 9, 4])], [np.array([5, 6, 7, 9])])
      0.6
    """
    pairs = list(zip(targets, predictions, strict=True))
    correct = sum(int(np.sum(a[: len(b)] == b[: len(a)])) for a, b in pairs)
    return correct / max(sum(len(target) for target, _ in pairs), 1)


def bleu(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "bleu", that of the corpus, 0 to 100, with sacrebleu's defaults.

    Papineni et al. 2002, https://aclanthology.org/P02-1040; Post 2018,
    https://aclanthology.org/W18-6319.
    """
    # Importing it takes longer than most commands, which do not need it.
    import sacrebleu  # noqa: PLC0415

    return {"bleu": float(sacrebleu.corpus_bleu(list(predictions), [list(targets)]).score)}


def chrf(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "chrf", chrF2 of the corpus, 0 to 100; Popovic 2015, https://aclanthology.org/W15-3049."""
    import sacrebleu  # noqa: PLC0415, as in `bleu`

    return {"chrf": float(sacrebleu.corpus_chrf(list(predictions), [list(targets)]).score)}
