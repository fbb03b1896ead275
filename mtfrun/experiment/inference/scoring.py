"""Scores of targets given inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import mtf
from mtfrun.data import TARGETS, PromptLimits, ScoredRow, TextData, pad_rows
from mtfrun.display.progress import Work
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.model_metrics import target_log_probs
from mtfrun.experiment.records import require, split_into_batches
from mtfrun.models import TextModel


class Score(NamedTuple):
    """The likelihood of a target under a model.

    Attributes:
      log_likelihood: sum over the target and, unless it is left out, its end, in nats.
      tokens: number of tokens in that sum, without a first one that the model cannot predict.
      truncated_tokens: number of tokens of input and target that were cut off; not in the sum.
    """

    log_likelihood: float
    tokens: int
    truncated_tokens: int


class Scoring:
    """Computes log-likelihoods of targets, in batches; `limits` are of the lengths of rows."""

    def __init__(self, experiment: Experiment, batch_size: int, limits: PromptLimits):
        self._experiment = experiment
        data = require(experiment.data, TextData, "scoring", "score with a model of text")
        self._prompt_format = data.prompt_format(limits)
        self._batch_size = experiment.rows_for(batch_size)
        model = require(experiment.model, TextModel, "scoring", "score with a model of text")
        # A model that reads the first id does not score it.
        self._first = int(not model.predicts_first_id)
        self._padding_of = model.padding_of
        self._log_probs = mtf.function(lambda features: target_log_probs(model, features))

    def __call__(
        self, pairs: Sequence[tuple[bytes, bytes]], *, with_end: bool = True
    ) -> list[Score]:
        """Returns the score of each (input, target), in order; NonFiniteError for a bad score.

        `with_end`: whether the end of the target counts.
        """
        rows = [self._prompt_format.scored_row(*pair) for pair in pairs]
        by_lengths: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for i, row in enumerate(rows):
            by_lengths.setdefault(tuple(row.lengths.items()), []).append(i)
        scores: dict[int, Score] = {}
        with Work("scoring", len(pairs), "pairs") as work:
            for lengths, lines in by_lengths.items():
                for batch in split_into_batches(lines, self._batch_size):
                    log_probs = self._batch([rows[i].features for i in batch], dict(lengths))
                    for i, log_probs_of_row in zip(batch, log_probs, strict=True):
                        scores[i] = self._score(rows[i], log_probs_of_row, with_end=with_end)
                    work.move_to(len(scores))
        return [scores[i] for i in range(len(rows))]

    def _score(self, row: ScoredRow, log_probs: np.ndarray, *, with_end: bool) -> Score:
        end = len(row.features[TARGETS]) - row.num_ends * (not with_end)
        begin = max(row.begin, self._first)
        total = float(np.sum(log_probs[begin:end], dtype=np.float64))
        self._experiment.require_finite(total, "log-likelihoods")
        # Where a word has several ids, its label is the target of the first one alone.
        has_target = row.features[TARGETS][begin:end] != self._padding_of(TARGETS)
        return Score(total, int(np.count_nonzero(has_target)), row.truncated)

    def _batch(
        self, rows: Sequence[Mapping[str, np.ndarray]], lengths: Mapping[str, int]
    ) -> np.ndarray:
        """Returns log-probabilities [rows, length] of targets."""
        batch = mtf.Dimension("batch", self._batch_size)
        features = {
            name: mtf.import_tf_tensor(
                self._experiment.mesh,
                pad_rows([row[name] for row in rows], batch.size, length, self._padding_of(name)),
                [batch, mtf.Dimension("length", length)],
            )
            for name, length in lengths.items()
        }
        log_probs: np.ndarray = mtf.to_numpy(self._log_probs(features))
        return log_probs[: len(rows)]
