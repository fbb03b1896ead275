"""Base classes of data."""

from __future__ import annotations

import abc
import hashlib
import itertools
import json
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import Cached, TokenCache
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.prompts import (
    ConversationTemplate,
    LanguageModelPrompts,
    PromptFormat,
    PromptLimits,
)
from mtfrun.data.rows.batches import Batch, Batches, CountedBatches
from mtfrun.data.rows.order import ONLY_HOST, Host
from mtfrun.data.sources.source import NoSource
from mtfrun.data.task import Fields, Task
from mtfrun.data.vocabularies.vocabulary import Vocabulary

# Entries of fingerprints. "vocabularies": hashes by feature; a model can never be used with another
# vocabulary. "ids" in a mapping: a hash of what the mapping's other entries determine. While it is
# the same, they may differ: a file that was copied has another time.
IDS, VOCABULARIES = "ids", "vocabularies"
# Characters of JSON that are stored; of longer JSON, such as thousands of names of files, a hash.
_LONGEST_JSON = 600


class Data(abc.ABC):
    """Batches of integer features for training and evaluation.

    Attributes:
      remedy: the end of a message to a model that reads other features; or several, by a feature
        that the model reads, "" for any other model.
      has_text: whether splits are running text, which `TextData.text` returns.
      has_rows_of_pairs: whether rows hold pairs of texts, "inputs end targets end".
      cached_tasks: the names of the tasks with caches.
      vocabularies: the vocabulary of each feature.
      conversation_template: how conversations became text; None for data without conversations.
      text_limits: the number of tokens, the end included, at which longer texts are cut, by
        feature.
      class_names: the name of every class, by feature that is a class.
      bytes_per_id: [vocabulary] bytes of text that each id represents; None for other targets.
    """

    remedy: ClassVar[str | Mapping[str, str]] = ""
    has_text: ClassVar[bool] = False
    has_rows_of_pairs: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def features(self) -> Mapping[str, mtf.Shape]:
        """The shapes of the features of a training row, without "batch", by name.

        Evaluation batches may have shorter rows, and lack the features of packed rows.
        """

    @property
    @abc.abstractmethod
    def tokens_per_row(self) -> int:
        """Tokens of a row as progress counts them, padding included; 1 for an image."""

    @abc.abstractmethod
    def model_arguments(self) -> dict[str, object]:
        """Returns the arguments of the model's constructor besides the mesh."""

    @abc.abstractmethod
    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        """Returns endless batches of `batch` rows over all hosts; `seed` fixes order and noise."""

    @abc.abstractmethod
    def evaluation(self, batch: int, *, split: str) -> Iterator[Batch]:
        """Returns every row of `split` once, in order. Rows without loss fill up a batch."""

    def evaluation_subset(self, batch: int, max_batches: int, *, split: str) -> Iterator[Batch]:
        """Returns rows for `max_batches` of a split, if it has as many, the same every time.

        By default the first rows. If batches hold rows of similar length only, there may be more.
        """
        batches = self.evaluation(batch, split=split)
        first = itertools.islice(batches, max_batches)
        return CountedBatches(first, min(max_batches, operator.length_hint(batches)))

    def by_task(self) -> Mapping[str, Data]:
        """Returns the data of each task, evaluated by itself, by name; by default {"": self}."""
        return {"": self}

    @property
    def cached_tasks(self) -> Sequence[str]:
        return ()

    def caches(self, split: str, choice: CacheChoice = EVERY_CACHE) -> Iterator[Cached]:
        """Yields the caches of a split, after building missing caches; empty by default."""
        return iter(())

    def with_caches(self, caches: Mapping[str, TokenCache]) -> Data:
        """Returns the data with other caches of texts by task, such as a former training's."""
        del caches
        return self

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        return {}

    @property
    def conversation_template(self) -> ConversationTemplate | None:
        return None

    @property
    def text_limits(self) -> Mapping[str, int]:
        return {}

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        return {}

    @property
    def bytes_per_id(self) -> np.ndarray | None:
        return None

    def remove(self, hashes: Sequence[str]) -> Data:
        """Returns the data without these documents in training, where they are padding.

        DataError if a hash is not of a document, see `dropped_documents.hashes_of`.
        """
        raise DataError(f"{type(self).__name__} has no documents that training can leave out")

    def fingerprint(self) -> dict[str, object]:
        """Returns the JSON settings that determine the training rows, for checkpoints."""
        return {}

    def vocabulary_files(self) -> list[str]:
        files = [name for vocabulary in self.vocabularies.values() for name in vocabulary.files]
        return list(dict.fromkeys(files))

    def source_summary(self) -> Mapping[str, object] | None:
        """Returns JSON from the source, such as class names, to use a model without it; or None."""
        return None

    def source_texts(self, split: str, features: Collection[str]) -> Iterator[bytes]:
        """Yields the texts of `features` in the rows of a split, to train a vocabulary."""
        remedy = "choose data made of a task, such as @data.LanguageModelData()"
        raise DataError(f"{type(self).__name__} has no texts to train a vocabulary on: {remedy}")

    def expected_bytes(self, split: str) -> int | None:
        """Returns the approximate number of bytes of `source_texts`, or None."""
        return None

    def shapes(self, batch: int) -> dict[str, mtf.Shape]:
        rows = mtf.Shape([mtf.Dimension("batch", batch)])
        return {name: rows + shape for name, shape in self.features.items()}


class TextData(Data):
    """Data of token ids; a split may be pairs of texts, which `pairs` returns.

    By default prompts are continued, and the input of a scored pair precedes its target in one row.

    Attributes:
      vocabulary: the vocabulary of the targets.
      evaluated_task: the metrics of pairs, and what they compare; by default a task without any.
    """

    has_pairs: ClassVar[bool] = False

    @property
    @abc.abstractmethod
    def vocabulary(self) -> Vocabulary: ...

    @property
    def tokens_per_row(self) -> int:
        features = self.features
        return sum(features[name].size for name in (INPUTS, TARGETS) if name in features)

    def model_arguments(self) -> dict[str, object]:
        return {"vocabulary_size": self.vocabulary.size}

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        return {name: self.vocabulary for name in (INPUTS, TARGETS) if name in self.features}

    @property
    def bytes_per_id(self) -> np.ndarray:
        return self.vocabulary.bytes_per_id

    @property
    def evaluated_task(self) -> Task:
        return Task(NoSource(), self.vocabulary)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        return LanguageModelPrompts(self.vocabulary, limits)

    def text(self, split: str) -> bytes:
        """Returns all text of a split; raises DataError if the data is not running text."""
        if not self.has_text:
            remedy = "use @data.LanguageModelData()"
            raise DataError(f"{type(self).__name__} has no running text: {remedy}")
        return b"".join(example[TARGETS] for example in self.examples(split))

    def examples(self, split: str) -> Iterator[Mapping[str, bytes]]:
        """Yields the texts of a split's examples: "inputs" and "targets", or only "targets"."""
        raise DataError(f"{type(self).__name__} has no texts: choose data made of a task")

    def pairs(self, split: str, count: int | None) -> list[tuple[bytes, bytes]]:
        examples = self.evaluated_examples(split, count)
        return [(example[INPUTS], example[TARGETS]) for example in examples]

    def evaluated_examples(self, split: str, count: int | None) -> list[Fields]:
        """Returns a random choice of `count` examples of pairs, the same every time, or all."""
        remedy = "use @data.SequenceToSequenceData() or @data.DelimitedPairsData()"
        raise DataError(f"{type(self).__name__} has no pairs of texts: {remedy}")


def short_json(value: object) -> object:
    """Returns JSON to store in a checkpoint: the value, or a hash of it if it is long."""
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= _LONGEST_JSON else hashlib.sha256(text.encode()).hexdigest()
