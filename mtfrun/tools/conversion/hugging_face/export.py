from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping

import numpy as np

from mtfrun.configuration.gin_values import reference
from mtfrun.data import Vocabulary
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import CONFIG, GENERATION_CONFIG, INDEX, SINGLE
from mtfrun.tools.conversion.hugging_face.model_types import FAMILIES, family_of
from mtfrun.tools.conversion.hugging_face.origin import Origin
from mtfrun.tools.conversion.hugging_face.safetensors_file import DTYPES, FLOATS
from mtfrun.tools.conversion.hugging_face.settings import Settings
from mtfrun.tools.conversion.hugging_face.shards import (
    MAX_SHARD_BYTES,
    shards_by_size,
    write_shards,
)
from mtfrun.tools.conversion.hugging_face.tensor_table import TensorTable
from mtfrun.tools.conversion.model_description import ModelDescription
from mtfrun.untrusted import parse_json

_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def export_folder(
    directory: pathlib.Path,
    values: Mapping[str, np.ndarray],
    origin: Origin,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes the files of a model for transformers into an empty directory.

    Imported values that were not changed have their original bytes. Without `max_shard_bytes` the
    files are the origin's, or at most 50 GB. Raises ConversionError if the model differs from its
    configuration.
    """
    settings = Settings(parse_json(origin.files[CONFIG]), CONFIG, frozenset(origin.dtypes))
    family = family_of(settings)
    ties = family.ties(settings)
    if origin.copies.items() - ties.items():
        raise ConversionError(f"the copies of tensors are none of {CONFIG}: import the model again")
    settings = dataclasses.replace(settings, tensors=settings.tensors - set(origin.copies))
    table = family.table(settings)
    table.check_names(settings.tensors, "the run")
    tensors = _tensors(table, values, origin)
    reuse = max_shard_bytes is None and origin.keeps_files
    if reuse:
        shards = {file: {n: tensors[n] for n in names} for file, names in origin.shards.items()}
    else:
        shards = shards_by_size(tensors, max_shard_bytes or MAX_SHARD_BYTES)
    files = {name: content for name, content in origin.files.items() if name != INDEX or reuse}
    write_shards(directory, shards, origin.metadata)
    for name, content in files.items():
        (directory / name).write_bytes(content)  # also the index, if the files are the origin's


def _tensors(
    table: TensorTable, values: Mapping[str, np.ndarray], origin: Origin
) -> dict[str, np.ndarray]:
    tensors = table.to_theirs(values)
    for name, original in origin.copies.items():
        tensors[name] = tensors[original]
    dtypes = {name: DTYPES[dtype] for name, dtype in origin.dtypes.items()}
    if any(origin.dtypes[name] not in FLOATS for name in tensors):
        raise ConversionError("a tensor of the run is none of floats: import the model again")
    missing = set(dtypes) - set(tensors) - set(origin.kept)
    if missing:
        raise ConversionError(f"the run has no values of {min(missing)}: import the model again")
    tensors = {name: value.astype(dtypes[name]) for name, value in tensors.items()}
    return {**origin.kept, **tensors}


def describe_model(model: ModelDescription, vocabulary: Vocabulary) -> tuple[Origin, str]:
    """Returns the origin and its gin file; the caller compares models and adds the tokenizer."""
    for family in FAMILIES:
        settings = family.settings_of(model)
        if settings is None:
            continue
        values = {**settings.values, **special_ids(vocabulary)}
        settings = dataclasses.replace(settings, values=values)
        file = GinFile(["A model that was trained here."])
        file.include("defaults.gin")
        family.write_gin(settings, file)
        padding = model.parameter("transformer.TokenEmbedding", "padding_id")
        if padding:
            file.bind("transformer.TokenEmbedding", {"padding_id": padding})
        file.macro("VOCABULARY", reference("@data.IdVocabulary()"))
        file.bind(
            "data.IdVocabulary",
            {"size": settings.integer("vocab_size"), "pad_id": padding or 0},
        )
        names = [name for row in family.table(settings).rows for name in row.names]
        generation = {n: values[n] for n in _SPECIAL_IDS if n in values}
        files = {CONFIG: _json(values), GENERATION_CONFIG: _json(generation)}
        shards = {SINGLE: dict.fromkeys(names, "F32")}
        origin = Origin(shards, {"format": "pt"}, {}, files, {}, keeps_files=False)
        return origin, file.text()
    raise ConversionError(
        "transformers has no such model, only the families of import and models of "
        "models/t5.1.0.gin, t5.1.1.gin, gpt2.gin and llama.gin; export it with --format=safetensors"
    )


def special_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    begin = vocabulary.encode("").tolist()
    return {
        "pad_token_id": vocabulary.pad_id if vocabulary.pad_id >= 0 else None,
        "eos_token_id": vocabulary.end_id if vocabulary.end_id >= 0 else None,
        "bos_token_id": begin[0] if begin else None,
    }


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
