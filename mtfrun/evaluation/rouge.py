"""ROUGE, the overlap of a summary with its reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtfrun.errors import InputError, install_command
from mtfrun.evaluation.text_metrics import check_paired

_KINDS = ("rouge1", "rouge2", "rougeLsum")


class Rouge:
    """Computes "rouge1", "rouge2" and "rougeLsum", F-measures from 0 to 100.

    Lin 2004, https://aclanthology.org/W04-1013. As in T5: Google's `rouge-score` without stemming,
    where " . " ends a sentence for rougeLsum. Values are means over the texts, which T5 estimates
    by a bootstrap.

    Raises:
      InputError: `rouge-score` is not installed.
    """

    def __init__(self) -> None:
        try:
            # An optional dependency, and slow to import.
            from rouge_score import rouge_scorer  # noqa: PLC0415
        except ImportError as error:
            raise InputError(
                f"Rouge needs the package rouge-score ({error}): {install_command('rouge-score')}"
            ) from None
        self._scorer = rouge_scorer.RougeScorer(list(_KINDS))

    def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        """Returns the metrics of predictions with one target each."""
        check_paired("Rouge", targets, predictions)
        scores = [
            self._scorer.score(
                target=_one_sentence_per_line(target),
                prediction=_one_sentence_per_line(prediction),
            )
            for target, prediction in zip(targets, predictions, strict=True)
        ]
        return {
            kind: 100.0 * float(np.mean([score[kind].fmeasure for score in scores]))
            for kind in _KINDS
        }


def _one_sentence_per_line(text: str) -> str:
    return text.replace(" . ", " .\n")
