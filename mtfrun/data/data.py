"""The base classes of data: what experiments need of it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import Feature
from mtfrun.data.prompting import (
    Continuing,
    Prompting,
    PromptLimits,
    ScoredRow,
    continued_pair,
)
from mtfrun.data.vocabulary import Vocabulary


class Data(abc.ABC):
    """Batches of integer features for training and evaluation.

    Attributes:
      remedy: for a model that reads other features: what to configure instead. May be "".
      has_rows_of_pairs: every row holds pairs of texts, each "inputs end targets end".
    """

    remedy: ClassVar[str] = ""
    has_rows_of_pairs: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def features(self) -> Mapping[str, Feature]:
        """The features of every batch, by name."""

    @property
    @abc.abstractmethod
    def tokens_per_row(self) -> int:
        """What a row counts in a step's progress, such as its positions; 1 for an image."""

    @abc.abstractmethod
    def model_arguments(self) -> dict[str, object]:
        """Returns what the model's class is called with, besides the mesh."""

    @abc.abstractmethod
    def train(self, batch: int, *, seed: int) -> tf.data.Dataset:
        """Returns endless shuffled batches of `batch` rows, int32 or uint8, by feature.

        `seed` fixes the order, which differs in every epoch. An iterator over it, saved in a
        tf.train.Checkpoint and restored into an iterator over an equal dataset, goes on with the
        same batches, buffers included; see epochs.py.
        """

    @abc.abstractmethod
    def evaluation(self, batch: int, *, split: str) -> tf.data.Dataset:
        """Returns every row of `split` once, in order. Rows without loss fill up the last batch.

        Raises DataError in one line if there is no such split.
        """

    @property
    def origin(self) -> object:
        """Where the rows come from, for the error of data that cannot be read."""
        return self

    @property
    def bytes_per_id(self) -> np.ndarray | None:
        """[vocabulary] bytes of text that each target stands for; None for what is no text."""
        return None

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        """Returns the shape {batch, ...} of every feature of a batch."""
        rows = mtf.Shape([mtf.Dimension("batch", batch)])
        return {name: rows + feature.shape for name, feature in self.features.items()}

    def _check_positive(self, name: str, value: int) -> None:
        if value < 1:
            raise DataError(f"{type(self).__name__}: {name} must be at least 1, not {value}")


class TextData(Data):
    """Data of token ids.

    Prompts are continued, and the input of a scored pair comes before the target in one row,
    unless a subclass says otherwise.

    Attributes:
      vocabulary: text to ids and back.
      has_text: a split is one text, which `text` returns.
      has_pairs: a split is pairs of texts, which `pairs` returns.
    """

    has_text: ClassVar[bool] = False
    has_pairs: ClassVar[bool] = False
    vocabulary: Vocabulary

    def model_arguments(self) -> dict[str, object]:
        """Returns the number of ids."""
        return {"vocabulary_size": self.vocabulary.size}

    @property
    def bytes_per_id(self) -> np.ndarray:
        """[vocabulary] bytes of text that each id stands for."""
        return self.vocabulary.bytes_per_id

    def prompting(self, limits: PromptLimits) -> Prompting:
        """Returns how prompts become rows."""
        return Continuing(self.vocabulary, limits)

    def scored_row(self, inputs: bytes, target: bytes, limits: PromptLimits) -> ScoredRow:
        """Returns the row whose targets' log-likelihood is the score of a pair."""
        return continued_pair(self.vocabulary, inputs, target, limits.max_length)

    def text(self, split: str) -> bytes:
        """Returns all text of a split."""
        raise NotImplementedError(f"{type(self).__name__} has no running text")

    def pairs(self, split: str, count: int) -> list[tuple[bytes, bytes]]:
        """Returns the first pairs of inputs and targets of a split, at most `count`."""
        raise NotImplementedError(f"{type(self).__name__} has no pairs")
