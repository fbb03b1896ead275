"""Base class of data made of a task's texts."""

from __future__ import annotations

import abc
import copy
import dataclasses
import functools
import itertools
import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from mtfrun import mtf
from mtfrun.data.cache.directory import EVERY_CACHE, CacheChoice
from mtfrun.data.cache.tokens import Cached, TokenCache, open_cache
from mtfrun.data.data import IDS, VOCABULARIES, TextData, short_json
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, packed_features
from mtfrun.data.rows.batches import Batch, Batches, CountedBatches, Rows, choose_rows, every_row
from mtfrun.data.rows.dropped_documents import RowsWithoutDocuments, find_hashes
from mtfrun.data.rows.order import ONLY_HOST, Host
from mtfrun.data.rows.text_rows import PackedRows, StreamRows
from mtfrun.data.task import Fields, Mixture, Task, Tasks
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import COUNT, check_fields, check_range


@dataclasses.dataclass(frozen=True)
class TaskData(TextData):
    """Rows of a task's texts; subclasses define a row and its features `texts`.

    `shown_texts` are used for prompts and metrics; by default `texts`.

    Attributes:
      task: the source, the preprocessors and the vocabulary; or a mixture of tasks, which are
        mixed in training and evaluated one by one.
      exclude_documents: the hashes of documents that training leaves out, see `remove`.
    """

    texts: ClassVar[Sequence[str]] = (TARGETS,)
    shown_texts: ClassVar[Sequence[str] | None] = None

    task: Tasks
    exclude_documents: Sequence[str] = dataclasses.field(default=(), kw_only=True)

    @functools.cached_property
    def mixture(self) -> Mixture:
        task = self.task
        return task if isinstance(task, Mixture) else Mixture([task], name=task.title)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.mixture.vocabulary_of(TARGETS)

    def train(self, batch: int, *, seed: int, host: Host = ONLY_HOST) -> Batches:
        tasks = self.mixture.tasks
        rows = [self._rows(task, "train") for task in tasks]
        examples = list(map(len, rows))
        if self.has_pairs:  # rows may hold several
            examples = [len(self._cache(task, "train")) for task in tasks]
        per_row = [count / len(x) for count, x in zip(examples, rows, strict=True)]
        # A row of many examples is drawn so much less often.
        example_rates = self.mixture.example_rates(examples)
        rates = [rate / count for rate, count in zip(example_rates, per_row, strict=True)]
        if self.exclude_documents:
            documents = [np.concatenate(list(by_hash.values())) for by_hash in self._dropped]
            rows = list(map(RowsWithoutDocuments, rows, documents))
        return Batches(
            rows,
            batch,
            seed=seed,
            rates=rates,
            max_epochs=[self.mixture.max_epochs.get(task.title) for task in tasks],
            examples_per_row=dict(zip(self.mixture.names, per_row, strict=True)),
            host=host,
        )

    def remove(self, hashes: Sequence[str]) -> TaskData:
        data = dataclasses.replace(self, exclude_documents=tuple(hashes))
        for text in hashes:
            if not any(by_hash[text].size for by_hash in data._dropped):
                remedy = "`mtfrun audit rows` prints the hashes of documents"
                raise DataError(f"no document of the training split has the hash {text}: {remedy}")
        return data

    def with_caches(self, caches: Mapping[str, TokenCache]) -> TaskData:
        data = copy.copy(self)
        vars(data).pop("_dropped", None)
        vars(data)["_cache"] = lambda task, *_: caches[task.title]
        return data

    @functools.cached_property
    def _dropped(self) -> list[dict[str, np.ndarray]]:
        """For each task the documents by their hashes."""
        tasks, hashes = self.mixture.tasks, self.exclude_documents
        return [find_hashes(self._cache(task, "train"), hashes) for task in tasks]

    def evaluation(self, batch: int, *, split: str = "validation") -> Iterator[Batch]:
        return self._evaluation(batch, split, None)

    def evaluation_subset(self, batch: int, max_batches: int, *, split: str) -> Iterator[Batch]:
        """Returns a random choice of as many rows, the same every time; of a mixture, per task."""
        return self._evaluation(batch, split, batch * max_batches)

    def by_task(self) -> Mapping[str, TaskData]:
        if len(self.mixture.tasks) == 1:
            return {"": self}
        return {task.title: dataclasses.replace(self, task=task) for task in self.mixture.tasks}

    @property
    def cached_tasks(self) -> Sequence[str]:
        return [task.title for task in self.mixture.tasks]

    def caches(self, split: str, choice: CacheChoice = EVERY_CACHE) -> Iterator[Cached]:
        for task in self.mixture.tasks:
            if not choice.includes(task.title):
                continue
            cache = self._cache(task, split, choice)
            counts = {
                "examples": len(cache),
                "tokens": cache.tokens.size,
                "bytes": cache.manifest["text_bytes"],
            }
            files = task.source.paths(split)
            place, digest = cache.directory, cache.fingerprint
            yield Cached(task.title, split, counts, place, digest, cache, files)

    @property
    def vocabularies(self) -> Mapping[str, Vocabulary]:
        names = [name for name in (INPUTS, TARGETS) if name in self.texts or name in self.features]
        return {
            name: self.mixture.vocabulary_of(name if name in self.texts else TARGETS)
            for name in names
        }

    def fingerprint(self) -> dict[str, object]:
        settings: dict[str, object] = {}
        names = [field.name for field in dataclasses.fields(self)]
        # `exclude_documents` is compared as a parameter of the training: earlier rows are the same.
        for name in (name for name in names if name not in ("task", "exclude_documents")):
            value = getattr(self, name)
            is_json = value is None or isinstance(value, int | float | str)
            settings[name] = value if is_json else repr(value)
        tasks = self.mixture.tasks
        caches = {task.title: self._cache(task, "train") for task in tasks}
        if len(tasks) > 1:
            settings["tasks"] = list(caches)
            sizes = [cache.manifest["examples"] for cache in caches.values()]
            settings["rates"] = list(self.mixture.example_rates(sizes))
            settings["max_epochs"] = list(map(self.mixture.max_epochs.get, caches))
        return {
            "texts": {
                title: {
                    IDS: cache.fingerprint,
                    "source": short_json(cache.manifest["source"]),
                    "preprocessors": short_json(cache.manifest["preprocessors"]),
                }
                for title, cache in caches.items()
            },
            VOCABULARIES: {name: v.fingerprint for name, v in self.vocabularies.items()},
            "settings": settings,
        }

    def source_texts(self, split: str, features: Collection[str]) -> Iterator[bytes]:
        chosen = [feature for feature in self.texts if feature in features]
        if not chosen:
            who, names, choices = type(self).__name__, ", ".join(features), ", ".join(self.texts)
            raise DataError(f"{who} has no texts of {names}: choose among {choices}")
        texts = (row for task in self.mixture.tasks for row in task.texts(split, chosen))
        return itertools.chain.from_iterable(texts)

    def expected_bytes(self, split: str) -> int | None:
        sizes = [task.source.expected_bytes(split) for task in self.mixture.tasks]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def examples(self, split: str) -> Iterator[Mapping[str, bytes]]:
        """Yields the texts of every example of all tasks, without empty documents."""
        for task in self.mixture.tasks:
            names = self.shown_texts or self.texts
            for texts in task.texts(split, names):
                if len(texts) > 1 or texts[0]:
                    yield dict(zip(names, texts, strict=True))

    def evaluated_examples(self, split: str, count: int | None) -> list[Fields]:
        if not self.has_pairs:
            return super().evaluated_examples(split, count)
        tasks = self.mixture.tasks
        shares: list[int | None] = [None] * len(tasks)
        if count is not None:
            shares = [*np.diff(np.linspace(0, count, len(tasks) + 1).astype(int)).tolist()]
        return [
            example
            for task, share in zip(tasks, shares, strict=True)
            for example in self._chosen_examples(task, split, share)
        ]

    @property
    def evaluated_task(self) -> Task:
        # The tasks of a mixture are evaluated by themselves, see `by_task`.
        return self.mixture.tasks[0]

    def _chosen_examples(self, task: Task, split: str, count: int | None) -> list[Fields]:
        numbers = choose_rows(self._cache(task, split).manifest["examples"], count).tolist()
        examples = enumerate(task.examples(split))
        # The iterator continues behind the example of the number before.
        chosen = [next(x.fields for i, x in examples if i == number) for number in numbers]
        names = self.shown_texts or self.texts
        return [{**x, **{name: task.text_of(x, name) for name in names}} for x in chosen]

    def _cache(self, task: Task, split: str, choice: CacheChoice = EVERY_CACHE) -> TokenCache:
        return open_cache(task, split, self.texts, choice)

    def _evaluation(self, batch: int, split: str, max_rows: int | None) -> Iterator[Batch]:
        check_range("batch", batch, COUNT)
        # In a list, so that a split that cannot be read is an error now.
        rows = [self._evaluation_rows(task, split) for task in self.mixture.tasks]
        parts = [every_row(rows_of_task, batch, max_rows) for rows_of_task in rows]
        count = sum(map(operator.length_hint, parts))
        return CountedBatches(itertools.chain.from_iterable(parts), count)

    @abc.abstractmethod
    def _rows(self, task: Task, split: str) -> Rows: ...

    def _evaluation_rows(self, task: Task, split: str) -> Rows:
        return self._rows(task, split)


@dataclasses.dataclass(frozen=True)
class LanguageModelData(TaskData):
    """Running text in rows of `length` tokens.

    A split's documents, each closed by the end id, form one stream, cut every `length` tokens. Only
    the last row is padded, and padding has no loss. A document that exceeds a row continues as the
    next row's first segment, with positions from 0, and does not attend to its beginning.

    Attributes:
      whole_documents: whether to pack whole documents instead: a row holds as many as fit; longer
        documents are cut.
    """

    remedy: ClassVar[Mapping[str, str]] = {
        "targets_segmentation": (  # of an encoder-decoder
            "add --gin_file=data/span_corruption.gin behind the file of the texts"
        ),
        "inputs": "add --gin_file=data/masked_lm.gin behind the file of the texts",
    }
    has_text: ClassVar[bool] = True

    length: int
    whole_documents: bool = False

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "length")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        return packed_features(self.length)

    def _rows(self, task: Task, split: str) -> Rows:
        cache = self._cache(task, split)
        if self.whole_documents:
            return PackedRows(cache, [self.length])
        return StreamRows(cache, self.length)
