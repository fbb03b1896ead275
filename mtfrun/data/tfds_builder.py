"""Finds a TFDS dataset, ours or any that is prepared on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tensorflow_datasets as tfds

from mtfrun.data.errors import DataError
from mtfrun.data.prepare import prepare, resolve_data_dir
from mtfrun.data.silence import silent_tfds
from mtfrun.mtf.errors import did_you_mean

Embedded = Mapping[str, type[tfds.core.DatasetBuilder]]


def tfds_builder(name: str, data_dir: str | None, embedded: Embedded) -> tfds.core.DatasetBuilder:
    """Returns the builder of a dataset whose files are there; nothing is ever downloaded.

    Args:
      name: one of `embedded`, which is prepared on first use, or a dataset that TFDS has prepared,
        in TFDS's form `name[/config][:version]`.
      data_dir: where; see `resolve_data_dir`.
      embedded: the datasets that need no download, by name.

    Raises:
      DataError: it is not there; names what is.
    """
    directory = resolve_data_dir(data_dir)
    if name in embedded:
        return prepare(embedded[name], directory)
    try:
        # By its files, not by its code: code would download, or ask a server whether it could.
        with silent_tfds():
            return tfds.core.read_only_builder.builder_from_files(name, data_dir=directory)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise DataError(_not_prepared(name, directory, embedded)) from error


def _not_prepared(name: str, data_dir: Path, embedded: Embedded) -> str:
    prepared = sorted(
        path.parent.relative_to(data_dir).as_posix()
        for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json")
        for path in data_dir.glob(pattern)
    )
    known = {*embedded, *(path.split("/")[0] for path in prepared)}
    return (
        f'TFDS dataset "{name}" is not prepared in {data_dir}{did_you_mean(name, known) or "."} '
        f"Without a download there are {', '.join(sorted(known))}; "
        f"to add it, run where there is a network: tfds build {name} --data_dir={data_dir}"
    )
