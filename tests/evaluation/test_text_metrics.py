"""Metrics of predicted texts against their targets."""

from __future__ import annotations

import numpy as np
import pytest

from mtfrun.evaluation import bleu, chrf, exact_match, text_metrics, token_accuracy

# Half of the targets' words: BLEU is not symmetric.
TARGETS = ["a b c d e f g h i j", "k l"]
PREDICTIONS = ["a b c d e", "k l"]


def test_equal_texts_have_the_best_value_of_every_metric() -> None:
    texts = ["the quick brown fox jumps", "over the lazy dog today"]
    assert text_metrics(texts, texts) == pytest.approx(
        {"exact_match": 1.0, "bleu": 100.0, "chrf": 100.0}
    )


def test_exact_match_counts_texts_and_not_characters() -> None:
    assert exact_match(["a", "b", ""], ["a", "b ", ""]) == pytest.approx({"exact_match": 2 / 3})


def test_token_accuracy_counts_positions_of_the_target() -> None:
    predictions = [np.array([1, 2, 3, 4]), np.array([], int), np.array([7])]
    targets = [np.array([1, 9, 3]), np.array([5]), np.array([7, 8])]
    assert token_accuracy(targets, predictions) == pytest.approx(3 / 6)


def test_texts_without_common_parts_have_the_value_0() -> None:
    assert bleu(["xx yy zz ww"], ["aa bb cc dd"])["bleu"] == pytest.approx(0.0, abs=1e-9)
    assert chrf(["zzzz"], ["aaaa"])["chrf"] == pytest.approx(0.0, abs=1e-9)


def test_bleu_is_that_of_papineni() -> None:
    # Precisions 5/6, 3/5, 1/4 and smoothed 1/(2*3); no brevity penalty, for the lengths are equal.
    expected = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    assert bleu(["the cat is on the mat"], ["the cat sat on the mat"])["bleu"] == pytest.approx(
        expected, rel=1e-3
    )


def test_targets_and_predictions_are_not_confused() -> None:
    import sacrebleu  # noqa: PLC0415, slow

    expected = sacrebleu.corpus_bleu(PREDICTIONS, [TARGETS]).score
    assert bleu(TARGETS, PREDICTIONS)["bleu"] == pytest.approx(expected)
    assert bleu(PREDICTIONS, TARGETS)["bleu"] != pytest.approx(expected, rel=0.01)
    chrf_score = sacrebleu.corpus_chrf(PREDICTIONS, [TARGETS]).score
    assert chrf(TARGETS, PREDICTIONS)["chrf"] == pytest.approx(chrf_score)
