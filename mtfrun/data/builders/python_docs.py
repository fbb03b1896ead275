"""TFDS dataset of the help topics of the Python language reference."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from mtfrun.data.builders.python_version import running_python
from mtfrun.data.errors import DataError
from mtfrun.data.splits import SPLITS, split_of


class PythonDocs(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """English prose without a download: the topics of `pydoc_data`, one document per topic.

    Topics that repeat longer ones are left out (`distinct_topics`); about 0.4 MB remain.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [running_python()]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict(
                {"name": tfds.features.Text(), "text": tfds.features.Text()}
            ),
            homepage="https://docs.python.org/3/reference/",
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[Any]]:
        topics = distinct_topics(_topics())
        return {split: self._generate_examples(topics, split) for split in SPLITS}

    def _generate_examples(
        self, topics: Mapping[str, str], split: str
    ) -> Iterator[tuple[str, dict[str, str]]]:
        for name in sorted(topics):
            if split_of(name) == split:
                yield name, {"name": name, "text": topics[name]}


def distinct_topics(topics: Mapping[str, str]) -> dict[str, str]:
    r"""Returns the topics of which less than half is repeated verbatim in a longer topic.

    Many topics are sections of another one ("while" of "compound"). If one were held out and the
    other trained on, the held-out loss would measure memorisation. The first paragraph, a heading,
    is not compared.

    Examples:
      >>> list(distinct_topics({"a": "A\n\none two", "b": "B\n\none two\n\nthree"}))
      ['b']
    """
    longest_first = sorted(topics, key=lambda name: (-len(topics[name]), name))
    seen: set[str] = set()
    distinct = {}
    for name in longest_first:
        paragraphs = [paragraph.strip() for paragraph in topics[name].split("\n\n")]
        body = paragraphs[1:]
        repeated = sum(len(paragraph) for paragraph in body if paragraph in seen)
        if not body or 2 * repeated < sum(map(len, body)):
            distinct[name] = topics[name]
        seen.update(paragraphs)
    return distinct


def _topics() -> Mapping[str, str]:
    try:
        topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
        return topics
    except ImportError as error:
        raise DataError(
            "python_docs: this Python has no pydoc_data.topics; "
            "install the full standard library or use python_source"
        ) from error
