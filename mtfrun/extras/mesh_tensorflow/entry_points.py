"""The importer of Mesh TensorFlow's runs; TensorFlow is imported when it is used."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtfrun.experiment.conversion.importer import Imported


class MeshTensorFlowImporter:
    description = (
        "a run directory of Mesh TensorFlow or T5 (operative_config.gin), another of their gin "
        "files, or a run directory of Tensor2Tensor's models on Mesh TensorFlow (hparams.json)"
    )
    needs_base = False

    def recognises(self, path: pathlib.Path) -> bool:
        from mtfrun.extras.mesh_tensorflow.importer import importer
        from mtfrun.extras.mesh_tensorflow.tensor2tensor import source_run

        return importer.names_run(path) or source_run.names_run(path)

    def read(
        self,
        path: pathlib.Path,
        *,
        partial: bool = False,
        search_paths: Sequence[str] = (),
        **_: Any,
    ) -> Imported:
        from mtfrun.extras.mesh_tensorflow.importer.importer import read_run
        from mtfrun.extras.mesh_tensorflow.tensor2tensor import importer, source_run

        if source_run.names_run(path):
            return importer.import_run(path)
        return read_run(path, partial=partial, search_paths=search_paths)
