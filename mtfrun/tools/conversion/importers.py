from __future__ import annotations

import pathlib
import re
from collections.abc import Sequence

from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.hugging_face import HuggingFaceImporter
from mtfrun.tools.conversion.importer import Importer
from mtfrun.tools.conversion.mesh_tensorflow import MeshTensorFlowImporter

# Matches names of models on the Hub: "google/flan-t5-small".
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)

# In the order in which they are asked.
IMPORTERS: Sequence[Importer] = (HuggingFaceImporter(), MeshTensorFlowImporter())


def importer_for(path: pathlib.Path) -> Importer:
    """Raises ConversionError if no importer recognises the files."""
    # Before anything else: the path of a checkpoint is the beginning of its files' names.
    for importer in IMPORTERS:
        if importer.recognises(path):
            return importer
    try:
        path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "name a folder with a model"
        if _HUB_NAME.fullmatch(str(path)):
            remedy = (
                "a folder is needed, for nothing is downloaded: if this is a model of the Hugging "
                f"Face Hub, `hf download {path} --local-dir {path.name}` makes one (pip install "
                f"huggingface_hub), and --from={path.name} names it"
            )
        raise ConversionError(f"--from={path}: {reason}; {remedy}") from error
    raise ConversionError(
        f"--from={path}: neither a folder of Hugging Face (config.json, *.safetensors) nor a run "
        "of Mesh TensorFlow (operative_config.gin)"
    )
