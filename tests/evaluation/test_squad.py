"""Metrics of short answers, against values calculated by hand."""

from __future__ import annotations

import pytest

from mtfrun.evaluation import squad


def test_case_articles_punctuation_and_spaces_do_not_count() -> None:
    assert squad(["The  U.S. Army"], ["an us army!"]) == {"em": 1.0, "f1": 1.0}


def test_f1_is_of_words_with_their_repetitions() -> None:
    # Two common words of three and of four: 2 * 2 / (3 + 4).
    metrics = squad(["blue blue whale"], ["blue whale whale seen"])
    assert metrics == pytest.approx({"em": 0.0, "f1": 4 / 7})


def test_the_best_of_several_answers_counts() -> None:
    metrics = squad([["red fox", "fox"], "owl"], ["fox", "hawk"])
    assert metrics == pytest.approx({"em": 0.5, "f1": 0.5})
