"""The importers of Mesh TensorFlow; TensorFlow is imported when one is used."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mtfrun.experiment.conversion.importer import Imported


class MeshTensorFlowImporter:
    description = (
        "a run directory of Mesh TensorFlow or T5 (operative_config.gin), or another of their gin "
        "files"
    )
    needs_base = False

    def recognises(self, path: pathlib.Path) -> bool:
        from mtfrun.extras.mesh_tensorflow.importer.importer import names_run

        return names_run(path) and not Tensor2TensorImporter().recognises(path)

    def read(
        self,
        path: pathlib.Path,
        *,
        partial: bool = False,
        search_paths: Sequence[str] = (),
        **_: Any,
    ) -> Imported:
        from mtfrun.extras.mesh_tensorflow.importer.importer import read_run

        return read_run(path, partial=partial, search_paths=search_paths)


class Tensor2TensorImporter:
    description = "a run directory of Tensor2Tensor's models on Mesh TensorFlow (hparams.json)"
    needs_base = False

    def recognises(self, path: pathlib.Path) -> bool:
        from mtfrun.extras.mesh_tensorflow.tensor2tensor.source_run import names_run

        return names_run(path)

    def read(self, path: pathlib.Path, **_: Any) -> Imported:
        from mtfrun.extras.mesh_tensorflow.tensor2tensor.importer import import_run

        return import_run(path)
