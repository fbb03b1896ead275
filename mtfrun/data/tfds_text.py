"""Text of TFDS datasets, ours and any that is prepared on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tensorflow as tf
import tensorflow_datasets as tfds

from mtfrun.data.builders import NumberWords, PythonDocs, PythonSource
from mtfrun.data.errors import DataError
from mtfrun.data.prepare import prepare, resolve_data_dir
from mtfrun.data.silence import silent_tfds
from mtfrun.data.sources import check_split
from mtfrun.mtf.errors import did_you_mean

EMBEDDED = {builder.name: builder for builder in (NumberWords, PythonDocs, PythonSource)}


@dataclasses.dataclass(frozen=True)
class TfdsText:
    """The text feature of a TFDS dataset. A TextSource.

    name: `python_docs`, `python_source` or `number_words`, which are prepared on first use; or the
        name of any dataset that TFDS has prepared in `data_dir`, in TFDS's form
        `name[/config][:version]`.
    text_feature: the feature that holds the document, a string.
    data_dir: by default $TFDS_DATA_DIR, else ~/tensorflow_datasets.

    A split is a split's name or TFDS's slice of one (`train[:10%]`). Nothing is ever downloaded.
    """

    name: str
    text_feature: str = "text"
    data_dir: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._builder().info.splits)

    def documents(self, split: str) -> tf.data.Dataset:
        builder = self._builder()
        self._check_feature(builder)
        check_split(f'TFDS dataset "{self.name}"', split.split("[")[0], tuple(builder.info.splits))
        try:
            with silent_tfds():
                dataset = builder.as_dataset(
                    split=split,
                    shuffle_files=False,
                    # Images and whatever else stands beside the text are not even parsed.
                    decoders=tfds.decode.PartialDecoding({self.text_feature: True}),
                    # TFDS's cache would become a part of every checkpoint of the iterator.
                    read_config=tfds.ReadConfig(try_autocache=False, skip_prefetch=True),
                )
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DataError(f'TFDS dataset "{self.name}", split "{split}": {reason}') from error
        return dataset.map(lambda example: example[self.text_feature])

    def _builder(self) -> tfds.core.DatasetBuilder:
        data_dir = resolve_data_dir(self.data_dir)
        if self.name in EMBEDDED:
            return prepare(EMBEDDED[self.name], data_dir)
        try:
            # By its files, not by its code: code would download, or ask a server whether it could.
            with silent_tfds():
                return tfds.core.read_only_builder.builder_from_files(self.name, data_dir=data_dir)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise DataError(_not_prepared(self.name, data_dir)) from error

    def _check_feature(self, builder: tfds.core.DatasetBuilder) -> None:
        texts = [
            name
            for name, feature in builder.info.features.items()
            if feature.shape == () and feature.tf_dtype == tf.string
        ]
        if self.text_feature not in texts:
            raise DataError(
                f'TFDS dataset "{self.name}" has no text feature "{self.text_feature}"; '
                f"its text features: {', '.join(texts) or 'none'}"
                f"{did_you_mean(self.text_feature, texts)}"
            )


def _not_prepared(name: str, data_dir: Path) -> str:
    prepared = sorted(
        path.parent.relative_to(data_dir).as_posix()
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for path in data_dir.glob(pattern)
    )
    known = {*EMBEDDED, *(path.split("/")[0] for path in prepared)}
    return (
        f'TFDS dataset "{name}" is not prepared in {data_dir}{did_you_mean(name, known) or "."} '
        f"Without a download there are {', '.join(sorted(known))}; "
        f"to add it, run where there is a network: tfds build {name} --data_dir={data_dir}"
    )
