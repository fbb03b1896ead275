"""Metrics of short answers to questions."""

from __future__ import annotations

import collections
import re
import string
from collections.abc import Sequence

import numpy as np

from mtfrun.evaluation.text_metrics import check_paired

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def squad(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "em" and "f1" of answers, shares; Rajpurkar et al. 2016, section 6.1.

    Both ignore case, punctuation, the articles "a", "an" and "the", and repeated spaces. "em" is
    the share of predictions that equal one of their answers, "f1" the mean of the greatest F1 of
    the words of prediction and answer. https://aclanthology.org/D16-1264

    Args:
      targets: the answer, or the answers, to every question.
      predictions: one for each.

    Examples:
      >>> squad([["the Nile", "Nile river"]], ["Nile!"])
      {'em': 1.0, 'f1': 1.0}
    """
    check_paired("squad", targets, predictions)
    exact, overlap = [], []
    for answers, prediction in zip(targets, predictions, strict=True):
        several = [answers] if isinstance(answers, str) else answers
        words = _words(prediction)
        exact.append(max(_words(answer) == words for answer in several))
        overlap.append(max(_f1(_words(answer), words) for answer in several))
    return {"em": float(np.mean(exact)), "f1": float(np.mean(overlap))}


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of words, counted with repetitions."""
    common = (collections.Counter(target) & collections.Counter(prediction)).total()
    if not common:
        return 0.0
    return 2.0 * common / (len(target) + len(prediction))
