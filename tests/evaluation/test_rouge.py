"""ROUGE, against values calculated by hand."""

from __future__ import annotations

import sys

import pytest

from mtfrun.evaluation import Rouge


def test_it_counts_common_words_pairs_and_subsequences() -> None:
    # Five of six words and three of five pairs are common.
    metrics = Rouge()(["the cat sat on the mat"], ["the cat lay on the mat"])
    assert metrics == pytest.approx({"rouge1": 500 / 6, "rouge2": 60.0, "rougeLsum": 500 / 6})


def test_the_order_of_sentences_does_not_matter_to_rouge_l_of_summaries() -> None:
    metrics = Rouge()(["one two . three four", "c d"], ["three four . one two", "a b"])
    # The pair "two three" is not in the first prediction; the second one shares no word.
    assert metrics == pytest.approx({"rouge1": 50.0, "rouge2": 100 / 3, "rougeLsum": 50.0})


def test_without_the_package_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ValueError, match=r"rouge-score .* pip install rouge-score$") as error:
        Rouge()
    assert "\n" not in str(error.value)
