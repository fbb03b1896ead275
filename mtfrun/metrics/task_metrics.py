"""Metrics of a task: of texts, and of the labels and numbers that `postprocess` returns.

They are functions of all targets and all predictions, in order, to values by name.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.errors import InputError, did_you_mean, install_command

# The tokenizers of sacrebleu that do not download files.
_TOKENIZERS = ("intl", "13a", "char", "zh", "none", "ja-mecab", "ko-mecab")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation))
_SPACES_FOR_PUNCTUATION = dict.fromkeys(map(ord, string.punctuation + "\u2018\u2019\u00b4"), " ")
_ROUGE_KINDS = ("rouge1", "rouge2", "rougeLsum")


def text_metrics(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "exact_match", "bleu" and "chrf" of predictions with one target each."""
    return {
        **exact_match(targets, predictions),
        **bleu(targets, predictions),
        **chrf(targets, predictions),
    }


def exact_match(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "exact_match", the fraction of predictions that equal their targets."""
    check_paired("exact_match", targets, predictions)
    pairs = zip(targets, predictions, strict=True)
    return {"exact_match": float(np.mean([target == prediction for target, prediction in pairs]))}


def entity_f1(targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "entity_precision", "entity_recall" and "entity_f1" of labels with spaces, 0 to 1.

    As CoNLL-2003 counts (Tjong Kim Sang and De Meulder 2003, https://aclanthology.org/W03-0419): an
    entity is right if its type and both ends are. It begins with "B-type", or with an "I-type" that
    does not continue an entity of its type.

    Examples:
      >>> entity_f1(["B-PER I-PER O B-LOC"], ["B-PER I-PER O B-ORG"])["entity_f1"]
      0.5
    """
    check_paired("entity_f1", targets, predictions)
    correct = num_targets = num_predictions = 0
    for pair in zip(targets, predictions, strict=True):
        target_entities, predicted_entities = map(_entities, pair)
        correct += len(target_entities & predicted_entities)
        num_targets += len(target_entities)
        num_predictions += len(predicted_entities)
    return {
        "entity_precision": correct / max(num_predictions, 1),
        "entity_recall": correct / max(num_targets, 1),
        "entity_f1": 2.0 * correct / max(num_targets + num_predictions, 1),
    }


def token_accuracy(targets: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
    """Returns the fraction of the targets' ids that predictions have at the same positions."""
    pairs = list(zip(targets, predictions, strict=True))
    correct = sum(int(np.sum(a[: len(b)] == b[: len(a)])) for a, b in pairs)
    return correct / max(sum(len(target) for target, _ in pairs), 1)


def bleu(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str], tokenizer: str = "intl"
) -> dict[str, float]:
    """Returns "bleu", corpus BLEU, 0 to 100, computed by sacrebleu as in T5.

    Papineni et al. 2002, https://aclanthology.org/P02-1040; Post 2018,
    https://aclanthology.org/W18-6319.

    Args:
      targets: the reference of every prediction, or a sequence of references.
      tokenizer: how sacrebleu divides texts into words: "intl", as in T5, for the punctuation of
        all scripts; "13a", sacrebleu's default, used for most published values; "char", "zh",
        "none", "ja-mecab" or "ko-mecab".
    """
    # Importing it takes longer than most commands, which do not need it.
    import sacrebleu  # noqa: PLC0415

    if tokenizer not in _TOKENIZERS:
        choices = f"{', '.join(_TOKENIZERS)}{did_you_mean(str(tokenizer), _TOKENIZERS)}"
        raise InputError(f"bleu.tokenizer={tokenizer!r} must be one of {choices}")
    references = _references("bleu", targets, predictions)
    try:
        score = sacrebleu.corpus_bleu(list(predictions), references, tokenize=tokenizer)
    except RuntimeError as error:  # a package for the script is not installed
        raise InputError(f"bleu.tokenizer={tokenizer!r}: {' '.join(str(error).split())}") from error
    return {"bleu": float(score.score)}


def chrf(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "chrf", chrF2 of the corpus, 0 to 100; Popovic 2015, https://aclanthology.org/W15-3049."""
    import sacrebleu  # noqa: PLC0415, as in `bleu`

    references = _references("chrf", targets, predictions)
    return {"chrf": float(sacrebleu.corpus_chrf(list(predictions), references).score)}


def squad(targets: Sequence[str | Sequence[str]], predictions: Sequence[str]) -> dict[str, float]:
    """Returns "em" and "f1" of answers, shares; Rajpurkar et al. 2016, section 6.1.

    https://aclanthology.org/D16-1264. Both ignore case, punctuation, the articles "a", "an" and
    "the", and repeated spaces. "em" is the share of predictions that equal one of their answers,
    "f1" the mean of the greatest F1 of the words of prediction and answer; a question has one
    answer or several.
    """
    return _mean_scores(squad_scores(targets, predictions))


def trivia_qa(
    targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> dict[str, float]:
    """Returns "em" and "f1" as `squad` does, with spaces in place of punctuation.

    The normalisation of TriviaQA's program, Joshi et al. 2017, https://aclanthology.org/P17-1147.
    """
    return _mean_scores(squad_scores(targets, predictions, _SPACES_FOR_PUNCTUATION))


def squad_scores(
    targets: Sequence[str | Sequence[str]],
    predictions: Sequence[str],
    punctuation: Mapping[int, str | None] = _NO_PUNCTUATION,
) -> list[tuple[bool, float]]:
    """Returns whether each prediction equals one of its answers, and their greatest F1 of words.

    Args:
      punctuation: the replacement of each character of punctuation, by its number.
    """
    check_paired("squad", targets, predictions)
    scores = []
    for target, prediction in zip(targets, predictions, strict=True):
        several = [target] if isinstance(target, str) else target
        words, *answers = (_words(text, punctuation) for text in (prediction, *several))
        if not answers:
            raise InputError("squad needs at least one answer of each question")
        scores.append((words in answers, max(_f1(answer, words) for answer in answers)))
    return scores


def _mean_scores(scores: Sequence[tuple[bool, float]]) -> dict[str, float]:
    exact, overlap = zip(*scores, strict=True)
    return {"em": float(np.mean(exact)), "f1": float(np.mean(overlap))}


def _words(text: str, punctuation: Mapping[int, str | None]) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(punctuation)).split()


def _f1(target: Sequence[str], prediction: Sequence[str]) -> float:
    common = (collections.Counter(target) & collections.Counter(prediction)).total()
    if not common:
        return 0.0
    return 2.0 * common / (len(target) + len(prediction))


class Rouge:
    """Computes "rouge1", "rouge2" and "rougeLsum", F-measures from 0 to 100.

    Lin 2004, https://aclanthology.org/W04-1013. As in T5: Google's `rouge-score` without stemming,
    where " . " ends a sentence for rougeLsum. Values are means over the texts, which T5 estimates
    by a bootstrap. Raises InputError if `rouge-score` is not installed.
    """

    def __init__(self) -> None:
        try:
            # An optional dependency, and slow to import.
            from rouge_score import rouge_scorer  # noqa: PLC0415
        except ImportError as error:
            remedy = install_command("rouge-score")
            raise InputError(f"Rouge needs the package rouge-score ({error}): {remedy}") from None
        self._scorer = rouge_scorer.RougeScorer(list(_ROUGE_KINDS))

    def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        check_paired("Rouge", targets, predictions)
        scores = [
            self._scorer.score(
                target=_one_sentence_per_line(target), prediction=_one_sentence_per_line(prediction)
            )
            for target, prediction in zip(targets, predictions, strict=True)
        ]
        return {
            kind: 100.0 * float(np.mean([score[kind].fmeasure for score in scores]))
            for kind in _ROUGE_KINDS
        }


def _one_sentence_per_line(text: str) -> str:
    return text.replace(" . ", " .\n")


@dataclasses.dataclass(frozen=True)
class BinaryF1:
    """Computes "f1" of the class `positive`, the harmonic mean of its precision and recall."""

    positive: object = 1

    def __call__(
        self, targets: Sequence[object], predictions: Sequence[object]
    ) -> dict[str, float]:
        check_paired("BinaryF1", targets, predictions)
        return {"f1": _f1_of(self.positive, targets, predictions)}


def mean_f1(targets: Sequence[object], predictions: Sequence[object]) -> dict[str, float]:
    """Returns "mean_f1", the mean of the F1 of every class among the targets."""
    check_paired("mean_f1", targets, predictions)
    classes = dict.fromkeys(targets)
    return {"mean_f1": float(np.mean([_f1_of(x, targets, predictions) for x in classes]))}


def matthews_correlation(
    targets: Sequence[object], predictions: Sequence[object]
) -> dict[str, float]:
    """Returns "matthews_correlation", -1 to 1, of any number of classes; 0 if one side is constant.

    Gorodkin 2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006, equation 8.
    """
    check_paired("matthews_correlation", targets, predictions)
    classes = list(dict.fromkeys([*targets, *predictions]))
    x, y = (
        np.array([[value == label for label in classes] for value in values], np.float64)
        for values in (targets, predictions)
    )
    return {"matthews_correlation": _correlation(x, y)}


def pearson_correlation(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns "pearson_correlation", -1 to 1; 0 if one side is constant."""
    check_paired("pearson_correlation", targets, predictions)
    return {"pearson_correlation": _correlation(np.asarray(targets), np.asarray(predictions))}


def spearman_correlation(
    targets: Sequence[float], predictions: Sequence[float]
) -> dict[str, float]:
    """Returns "spearman_correlation", -1 to 1, of ranks; equal values have equal ranks."""
    check_paired("spearman_correlation", targets, predictions)
    return {"spearman_correlation": _correlation(_ranks(targets), _ranks(predictions))}


def _entities(labels: str) -> set[tuple[str, int, int]]:
    entities: set[tuple[str, int, int]] = set()
    open_type, first = None, 0
    for place, label in enumerate([*labels.split(), "O"]):
        prefix, _, entity_type = label.partition("-")
        if open_type is not None and (prefix != "I" or entity_type != open_type):
            entities.add((open_type, first, place))
            open_type = None
        if open_type is None and prefix in ("B", "I"):
            open_type, first = entity_type, place
    return entities


def _f1_of(label: object, targets: Sequence[object], predictions: Sequence[object]) -> float:
    pairs = list(zip(targets, predictions, strict=True))
    correct = sum(target == label == prediction for target, prediction in pairs)
    total = sum((target == label) + (prediction == label) for target, prediction in pairs)
    return 2.0 * correct / max(total, 1)


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, groups, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2.0)[groups]
    return ranks


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    variances = np.sum(x * x) * np.sum(y * y)
    return float(np.sum(x * y) / np.sqrt(variances)) if variances else 0.0


def check_paired(metric: str, targets: Sequence[object], predictions: Sequence[object]) -> None:
    if not len(targets) == len(predictions) > 0:
        numbers = f"{len(targets)} target(s) and {len(predictions)} prediction(s)"
        raise InputError(f"{metric} needs a prediction for each target, at least one: {numbers}")


def _references(
    metric: str, targets: Sequence[str | Sequence[str]], predictions: Sequence[str]
) -> Any:
    """Returns columns of references; None where a prediction has fewer, which sacrebleu accepts."""
    check_paired(metric, targets, predictions)
    several = [[target] if isinstance(target, str) else target for target in targets]
    for values in (list(predictions), *several):
        is_list = isinstance(values, Sequence) and len(values) > 0
        if not is_list or not all(isinstance(value, str) for value in values):
            raise InputError(f"{metric} compares texts, or lists of them, not {values!r:.60}")
    return [list(column) for column in itertools.zip_longest(*several)]
