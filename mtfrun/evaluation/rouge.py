"""ROUGE, the overlap of a summary with its reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.errors import InputError

_KINDS = ("rouge1", "rouge2", "rougeLsum")


class Rouge:
    """Computes "rouge1", "rouge2" and "rougeLsum", F-measures from 0 to 100; Lin 2004,
    https://aclanthology.org/W04-1013.

    As T5 does: Google's `rouge-score` without stemming, where " . " ends a sentence for rougeLsum.
    Means over the texts, where T5 estimates them by a bootstrap.

    Raises:
      InputError: `rouge-score` is not installed.
    """

    def __init__(self) -> None:
        try:
            from rouge_score import rouge_scorer  # an extra, and slow to load
        except ImportError as error:
            raise InputError(
                f"Rouge needs the package rouge-score ({error}): pip install 'mtfrun[rouge]'"
            ) from None
        self._scorer = rouge_scorer.RougeScorer(list(_KINDS))

    def __call__(self, outputs: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """Returns the metrics of outputs, one reference each."""
        scores = [
            self._scorer.score(target=_in_lines(reference), prediction=_in_lines(output))
            for output, reference in zip(outputs, references, strict=True)
        ]
        return {
            kind: 100.0 * float(np.mean([score[kind].fmeasure for score in scores]))
            for kind in _KINDS
        }


def _in_lines(text: str) -> str:
    """Returns a text with a line for each of its sentences."""
    return text.replace(" . ", " .\n")
