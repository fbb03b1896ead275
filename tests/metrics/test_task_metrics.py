"""Metrics of predicted texts, labels and numbers, against values calculated by hand."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun.errors import InputError
from mtfrun.metrics import (
    BinaryF1,
    Rouge,
    bleu,
    chrf,
    entity_f1,
    exact_match,
    matthews_correlation,
    mean_f1,
    pearson_correlation,
    spearman_correlation,
    squad,
    text_metrics,
    token_accuracy,
)

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


def test_bleu_equals_the_value_of_papineni() -> None:
    # Precisions 5/6, 3/5, 1/4 and smoothed 1/(2*3); no brevity penalty, for the lengths are equal.
    expected = 100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25
    assert bleu(["the cat is on the mat"], ["the cat sat on the mat"])["bleu"] == pytest.approx(
        expected, rel=1e-3
    )


def test_targets_and_predictions_are_not_confused() -> None:
    import sacrebleu  # noqa: PLC0415, slow

    expected = sacrebleu.corpus_bleu(PREDICTIONS, [TARGETS], tokenize="intl").score
    assert bleu(TARGETS, PREDICTIONS)["bleu"] == pytest.approx(expected)
    assert bleu(PREDICTIONS, TARGETS)["bleu"] != pytest.approx(expected, rel=0.01)
    chrf_score = sacrebleu.corpus_chrf(PREDICTIONS, [TARGETS]).score
    assert chrf(TARGETS, PREDICTIONS)["chrf"] == pytest.approx(chrf_score)


def test_bleu_divides_words_as_t5_does_and_gin_chooses() -> None:
    import sacrebleu  # noqa: PLC0415, slow

    targets = ["\u00abLe chat\u2026\u00bb dit-il \u2014 \u00aboui\u00bb."]
    predictions = ["\u00abLe chat\u00bb dit-il \u2014 \u00aboui\u00bb."]
    # The call in t5.evaluation.metrics.bleu, 0.9.4.
    of_t5 = sacrebleu.corpus_bleu(
        predictions,
        [targets],
        smooth_method="exp",
        smooth_value=0.0,
        force=False,
        lowercase=False,
        tokenize="intl",
        use_effective_order=False,
    )
    assert bleu(targets, predictions)["bleu"] == of_t5.score
    values = {name: bleu(targets, predictions, name)["bleu"] for name in ("intl", "13a")}
    assert bleu(targets, predictions)["bleu"] == values["intl"] > values["13a"]
    with pytest.raises(InputError, match=r"tokenizer='itnl' must be one of .*did you mean 'intl'"):
        bleu(targets, predictions, "itnl")


def test_a_prediction_may_have_several_references() -> None:
    targets = [["a b c d", "x y z w"], ["k l m n"], ("e f g h", "i", "j")]
    predictions = ["x y z w", "k l m n", "e f g h"]
    assert bleu(targets, predictions)["bleu"] == pytest.approx(100)
    assert chrf(targets, predictions)["chrf"] == pytest.approx(100)
    assert bleu([[text] for text in TARGETS], PREDICTIONS) == bleu(TARGETS, PREDICTIONS)


@pytest.mark.parametrize(
    "metric",
    [
        *(bleu, chrf, exact_match, text_metrics, squad, mean_f1, matthews_correlation),
        *(BinaryF1(), Rouge()),
    ],
)
def test_without_predictions_a_metric_is_an_error_of_one_line(
    metric: Callable[..., object],
) -> None:
    for targets, predictions in (([], []), (["a"], []), (["a"], ["a", "b"])):
        with pytest.raises(InputError, match=r"needs a prediction for each target") as raised:
            metric(targets, predictions)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("targets", "predictions"), [([[]], ["a"]), ([1], ["a"]), ([["a", 1]], ["a"]), (["a"], [1])]
)
def test_a_value_that_is_not_text_is_named(targets: list[Any], predictions: list[Any]) -> None:
    for metric in (bleu, chrf):
        with pytest.raises(InputError, match="compares texts"):
            metric(targets, predictions)


def test_squad_ignores_case_articles_punctuation_and_spaces() -> None:
    assert squad(["The  U.S. Army"], ["an us army!"]) == {"em": 1.0, "f1": 1.0}


def test_squad_f1_is_of_words_with_their_repetitions() -> None:
    # Two common words of three and of four: 2 * 2 / (3 + 4).
    metrics = squad(["blue blue whale"], ["blue whale whale seen"])
    assert metrics == pytest.approx({"em": 0.0, "f1": 4 / 7})


def test_squad_counts_the_best_of_several_answers() -> None:
    metrics = squad([["red fox", "fox"], "owl"], ["fox", "hawk"])
    assert metrics == pytest.approx({"em": 0.5, "f1": 0.5})


def test_rouge_counts_common_words_pairs_and_subsequences() -> None:
    # Five of six words and three of five pairs are common.
    metrics = Rouge()(["the cat sat on the mat"], ["the cat lay on the mat"])
    assert metrics == pytest.approx({"rouge1": 500 / 6, "rouge2": 60.0, "rougeLsum": 500 / 6})


def test_the_order_of_sentences_does_not_matter_to_rouge_l_of_summaries() -> None:
    metrics = Rouge()(["one two . three four", "c d"], ["three four . one two", "a b"])
    # The pair "two three" is not in the first prediction; the second one shares no word.
    assert metrics == pytest.approx({"rouge1": 50.0, "rouge2": 100 / 3, "rougeLsum": 50.0})


def test_without_the_package_rouge_names_the_extra_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ValueError, match=r"rouge-score .* pip install rouge-score$") as error:
        Rouge()
    assert "\n" not in str(error.value)


LABELS = [1, 1, 1, 0, 0, 0, 0, 1]
PREDICTED_LABELS = [1, 1, 0, 0, 0, 1, -1, 1]
# Of class 1: 3 correct of 4 predicted and 4 true. Of class 0: 2 of 3 predicted and 4 true.
F1_OF_1, F1_OF_0 = 2 * 3 / (4 + 4), 2 * 2 / (3 + 4)


def test_f1_of_a_class() -> None:
    assert BinaryF1()(LABELS, PREDICTED_LABELS) == pytest.approx({"f1": F1_OF_1})
    assert BinaryF1(positive=0)(LABELS, PREDICTED_LABELS) == pytest.approx({"f1": F1_OF_0})
    assert BinaryF1(positive="yes")(["no"], ["no"]) == {"f1": 0.0}


def test_mean_f1_is_over_the_classes_of_the_targets() -> None:
    assert mean_f1(LABELS, PREDICTED_LABELS) == pytest.approx({"mean_f1": (F1_OF_0 + F1_OF_1) / 2})


def test_matthews_correlation_of_two_classes_is_that_of_the_confusion_matrix() -> None:
    targets, predictions = [1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 1]
    tp, tn, fp, fn = 2, 3, 1, 1
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    expected = (tp * tn - fp * fn) / product**0.5
    metrics = matthews_correlation(targets, predictions)
    assert metrics == pytest.approx({"matthews_correlation": expected})


def test_matthews_correlation_of_more_classes_is_1_for_equal_ones_and_0_for_constants() -> None:
    assert matthews_correlation([0, 1, 2], [0, 1, 2])["matthews_correlation"] == pytest.approx(1)
    assert matthews_correlation([0, 1, 2], [1, 1, 1]) == {"matthews_correlation": 0.0}
    # 3 classes, confusion matrix [[1, 1, 0], [0, 1, 0], [0, 0, 1]]: (3*4 - 5) / sqrt(10 * 10).
    metrics = matthews_correlation([0, 0, 1, 2], [0, 1, 1, 2])
    assert metrics == pytest.approx({"matthews_correlation": 0.7})


def test_pearson_correlation_is_numpys() -> None:
    x, y = np.random.default_rng(0).normal(size=[2, 50])
    metrics = pearson_correlation(x.tolist(), y.tolist())
    assert metrics == pytest.approx({"pearson_correlation": float(np.corrcoef(x, y)[0, 1])})
    assert pearson_correlation([1.0, 2.0], [3.0, 3.0]) == {"pearson_correlation": 0.0}


def test_spearman_correlation_is_of_ranks_and_equal_values_share_theirs() -> None:
    monotonic = spearman_correlation([1.0, 2.0, 30.0], [-5.0, 0.0, 0.5])
    assert monotonic == pytest.approx({"spearman_correlation": 1.0})
    expected = np.corrcoef([1.0, 2.5, 2.5, 4.0], [2.0, 1.0, 3.5, 3.5])[0, 1]
    metrics = spearman_correlation([1.0, 7.0, 7.0, 9.0], [5.0, 4.0, 6.0, 6.0])
    assert metrics == pytest.approx({"spearman_correlation": float(expected)})


@pytest.mark.parametrize(
    ("target", "prediction", "expected"),
    [
        # Precision, recall and F1.
        ("B-A I-A O B-B", "B-A I-A O B-B", (1, 1, 1)),
        ("B-A I-A O B-B", "B-A O O B-B", (1 / 2, 1 / 2, 1 / 2)),
        # Two entities beside each other, and one that begins with "I".
        ("B-A B-A O", "B-A I-A O", (0, 0, 0)),
        ("B-A I-A O", "I-A I-A O", (1, 1, 1)),
        ("B-A I-B I-B", "B-A O O", (1, 1 / 2, 2 / 3)),
        # An entity at the end, and labels that a cut prompt lacks.
        ("O B-A B-B", "O B-A", (1, 1 / 2, 2 / 3)),
        ("O O", "O O", (0, 0, 0)),
    ],
)
def test_entities_are_right_if_their_type_and_both_ends_are(
    target: str, prediction: str, expected: tuple[float, float, float]
) -> None:
    metrics = entity_f1([target], [prediction])
    assert tuple(metrics.values()) == pytest.approx(expected)
