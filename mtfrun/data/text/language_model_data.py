"""Batches of running text for language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from mtfrun import mtf
from mtfrun.data.features import packed_features
from mtfrun.data.rows.batches import Rows
from mtfrun.data.rows.text_rows import PackedRows, StreamRows
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.errors.checks import COUNT, check_fields


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
