"""Scoring targets given inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import evaluation, mtf
from mtfrun.data import INPUTS, TARGETS, DelimitedPairsData, PairsData
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.prompting import bucket, padded


class Score(NamedTuple):
    """How likely a model holds a target to be.

    Attributes:
      log_likelihood: of the target and its end, in nats.
      tokens: of the target, the end included: what the log-likelihood is a sum over.
      truncated_tokens: tokens of input and target that did not find room; not in the sum.
    """

    log_likelihood: float
    tokens: int
    truncated_tokens: int


class Scoring:
    """Computes log-likelihoods of targets, in batches. A language model reads the input before the
    target, and an end between them where it is one of pairs; other models as their inputs.

    Args:
      experiment: whose model.
      batch_size: pairs at a time; more where the mesh splits a batch into more parts.
      max_length: of a language model of single texts, tokens of input and target together.
    """

    def __init__(self, experiment: Experiment, batch_size: int, max_length: int):
        self._experiment = experiment
        self._batch_size = experiment.rows_for(batch_size)
        self._max_length = max_length
        self._log_probs: Callable = mtf.function(
            lambda features: evaluation.target_log_probs(experiment.model, features)
        )

    def __call__(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Score]:
        """Returns a score for each (input, target), in order.

        Raises:
          NonFiniteError: one is infinite or not a number.
        """
        rows = [self._row(*pair) for pair in pairs]
        by_lengths: dict[tuple, list[int]] = {}
        for i, (features, _, _) in enumerate(rows):
            key = tuple(bucket(len(ids), self._longest(name)) for name, ids in features.items())
            by_lengths.setdefault(key, []).append(i)
        scores: dict[int, Score] = {}
        for lengths, lines in by_lengths.items():
            for start in range(0, len(lines), self._batch_size):
                batch = lines[start : start + self._batch_size]
                found = self._batch([rows[i][0] for i in batch], lengths)
                for i, log_probs in zip(batch, found, strict=True):
                    features, begin, truncated = rows[i]
                    end = len(features[TARGETS])
                    total = float(np.sum(log_probs[begin:end], dtype=np.float64))
                    self._experiment.require_finite(total, "log-likelihoods")
                    scores[i] = Score(total, end - begin, truncated)
        return [scores[i] for i in range(len(rows))]

    def _row(self, inputs: bytes, target: bytes) -> tuple[dict[str, np.ndarray], int, int]:
        """Returns features, where the target begins in the targets, and the tokens left out."""
        vocabulary = self._experiment.vocabulary
        given, wanted = vocabulary.encode(inputs), vocabulary.encode(target)
        end = np.asarray([vocabulary.end_id], np.int32)
        data = self._experiment.data
        if isinstance(data, PairsData):
            kept = given[: data.inputs_length - 1]
            scored = wanted[: data.targets_length - 1]
            truncated = len(given) + len(wanted) - len(kept) - len(scored)
            read, said = np.append(kept, end), np.append(scored, end)
            if isinstance(data, DelimitedPairsData):
                return {TARGETS: np.append(read, said)}, len(read), truncated
            return {INPUTS: read, TARGETS: said}, 0, truncated
        # The target comes first: the input is read from its end backwards.
        scored = wanted[: self._max_length - 1]
        room = self._max_length - 1 - len(scored)
        kept = given[len(given) - min(room, len(given)) :]
        ids = np.concatenate([kept, scored, end]).astype(np.int32)
        return {TARGETS: ids}, len(kept), len(given) + len(wanted) - len(kept) - len(scored)

    def _longest(self, feature: str) -> int:
        data = self._experiment.data
        if isinstance(data, DelimitedPairsData):
            return data.inputs_length + data.targets_length
        if isinstance(data, PairsData):
            return {INPUTS: data.inputs_length, TARGETS: data.targets_length}[feature]
        return self._max_length

    def _batch(
        self, rows: Sequence[Mapping[str, np.ndarray]], lengths: Sequence[int]
    ) -> np.ndarray:
        batch = mtf.Dimension("batch", self._batch_size)
        features = {
            name: mtf.import_tf_tensor(
                self._experiment.mesh,
                padded([row[name] for row in rows], batch.size, length),
                [batch, mtf.Dimension("length", length)],
            )
            for name, length in zip(rows[0], lengths, strict=True)
        }
        return mtf.to_numpy(self._log_probs(features))[: len(rows)]
