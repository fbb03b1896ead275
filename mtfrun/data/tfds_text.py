"""Text of TFDS datasets: the embedded ones, and those prepared on this machine."""

from __future__ import annotations

import dataclasses

import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.builders import NumberWords, PythonDocs, PythonSource
from mtfrun.data.errors import DataError
from mtfrun.data.prepare import resolve_data_dir
from mtfrun.data.prepared_files import PreparedFiles
from mtfrun.data.reading import PreparedSource
from mtfrun.data.tfds_builder import prepared_files, read_split, tfds_builder
from mtfrun.errors import did_you_mean

EMBEDDED = {builder.name: builder for builder in (NumberWords, PythonDocs, PythonSource)}


@dataclasses.dataclass(frozen=True)
class TfdsText(PreparedSource):
    """A TextSource of the text feature of a TFDS dataset.

    A split is the name of a split or TFDS's slice of one (`train[:10%]`). Nothing is ever
    downloaded.

    Attributes:
      name: `python_docs`, `python_source` or `number_words`, which are prepared on first use; or
        the name of any dataset that TFDS has prepared in `data_dir`, in TFDS's form
        `name[/config][:version]`.
      text_feature: the feature that holds the document, a string.
      data_dir: by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.
    """

    name: str
    text_feature: str = "text"
    data_dir: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the dataset."""
        return tuple(self._builder().info.splits)

    def documents(self, split: str) -> tf.data.Dataset:
        """Returns the text feature of the examples in the order of the dataset's files."""
        builder = self._builder()
        self._check_feature(builder)
        dataset = read_split(builder, self.name, split, [self.text_feature])
        return dataset.map(lambda example: example[self.text_feature])

    def files(self) -> PreparedFiles:
        """Returns the location of the dataset's files."""
        return prepared_files(self.name, resolve_data_dir(self.data_dir), EMBEDDED)

    def _builder(self) -> tfds.core.DatasetBuilder:
        return tfds_builder(self.name, self.data_dir, EMBEDDED)

    def _check_feature(self, builder: tfds.core.DatasetBuilder) -> None:
        texts = sorted(
            name
            for name, feature in builder.info.features.items()
            if feature.shape == () and feature.tf_dtype == tf.string
        )
        if self.text_feature not in texts:
            raise DataError(
                f'TFDS dataset "{self.name}" has no text feature "{self.text_feature}"; '
                f"its text features: {', '.join(texts) or 'none'}"
                f"{did_you_mean(self.text_feature, texts)}"
            )
