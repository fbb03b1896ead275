from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.data import Vocabulary
from mtfrun.errors.untrusted import parse_json
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.experiment.runs import opening as run_settings
from mtfrun.experiment.runs.opening import build
from mtfrun.extras.huggingface.families.registry import family_of
from mtfrun.extras.huggingface.family import Family
from mtfrun.extras.huggingface.origin import Origin, read_origin
from mtfrun.extras.huggingface.safetensors_file import (
    DTYPES,
    FLOATS,
    INDEX,
    SINGLE,
    shards_by_size,
    write_shards,
)
from mtfrun.extras.huggingface.tables.folder import CONFIG, GENERATION_CONFIG
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tables.tensor_table import TensorTable
from mtfrun.extras.huggingface.tokenizer_files import (
    has_tokenizer_of,
    special_ids,
    with_tokenizer,
    without_tokenizer,
)
from mtfrun.extras.huggingface.trained_models import ModelDescription, settings_of
from mtfrun.extras.text_tasks import LabelVocabulary, NumberVocabulary
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.copied_files import IMPORTED_CONFIG, ORIGIN_FOLDER

_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
_IMPORTED_VOCABULARY = (
    ("VOCABULARY", "VOCABULARY = @data.IdVocabulary()"),
    ("IdVocabulary.size", "data.IdVocabulary.size = {size}"),
    ("IdVocabulary.pad_id", "data.IdVocabulary.pad_id = {pad_id}"),
)


def origin_of_run(
    run: RunDirectory, allowed_imports: Sequence[str], *, weights_only: bool = False
) -> Origin:
    """Returns the configuration, dtypes and files for the export of a run.

    Imported runs, and runs initialised from one by INIT_CHECKPOINT, have the folder's; others get
    new ones, with a tokenizer from the run's vocabulary. ConversionError if transformers cannot
    express them.
    """
    directory = pathlib.Path(run.path)
    origin = read_origin(directory)
    if origin is not None and run.read_config() == origin.configuration:
        return without_tokenizer(origin) if weights_only else origin
    settings = run_settings.Settings(allowed_imports=allowed_imports)
    model, vocabularies = _describe(pathlib.Path(run.config_path), settings)
    if origin is not None:
        imported = directory / ORIGIN_FOLDER / IMPORTED_CONFIG
        settings = run_settings.Settings()
        if vocabularies:  # the import's vocabulary files may have moved
            size, pad_id = max(model.vocabulary_sizes.values()), vocabularies[0].pad_id
            texts = [(n, t.format(size=size, pad_id=pad_id)) for n, t in _IMPORTED_VOCABULARY]
            settings = run_settings.Settings(bindings=texts)
        original, _ = _describe(imported, settings)
        model.check_computes_as(original, str(imported))
        if all(has_tokenizer_of(origin, vocabulary) for vocabulary in vocabularies):
            return without_tokenizer(origin) if weights_only else origin
    if not vocabularies:
        raise ConversionError(
            "the run's model reads no text, and was not imported from transformers: export it with "
            "--format=safetensors"
        )
    if len(vocabularies) != 1:
        raise ConversionError(
            f"transformers has one tokenizer for a model, and the run has {len(vocabularies)} "
            "vocabularies; export it with --format=safetensors"
        )
    if origin is None:
        origin, text = _describe_for_transformers(model, vocabularies[0])
        with tempfile.TemporaryDirectory() as temporary:
            path = pathlib.Path(temporary, "config.gin")
            path.write_text(text, encoding="utf-8")
            theirs, _ = _describe(path, run_settings.Settings())
            model.check_computes_as(theirs, "a model that transformers has")
    return without_tokenizer(origin) if weights_only else with_tokenizer(origin, vocabularies[0])


def _describe(
    path: pathlib.Path, settings: run_settings.Settings
) -> tuple[ModelDescription, list[Vocabulary]]:
    with config.exclusive():
        settings.parse(str(path))
        with mtf.planned_meshes():
            experiment, _ = build()
        parameters = config.operative_parameters()
    model = experiment.model
    mtf.assign_paths(model)
    variables = model.named_variables()
    _check_factors(variables)
    shapes = {path: tuple(v.shape.to_integer_list) for path, v in variables.items()}
    # Labels are in the configuration, not in a tokenizer.
    vocabularies = {
        v.fingerprint: v
        for v in experiment.data.vocabularies.values()
        if not isinstance(v, LabelVocabulary | NumberVocabulary)
    }
    description = ModelDescription(parameters, shapes, model.vocabulary_sizes)
    return description, list(vocabularies.values())


def _check_factors(variables: Mapping[str, mtf.Variable]) -> None:
    """Raises ConversionError if `optim.set_base_sizes` changes the scale of logits."""
    growth = next(iter(variables.values())).widths.by_name
    table_dims = [] if "softmax/kernel" in variables else ["d_model", "d_embedding"]
    names = ["d_kv", *table_dims]
    grown = [name for name in names if growth.get(name, 1.0) != 1.0]
    if grown:
        raise ConversionError(
            f"base_sizes: {grown[0]} differs from its base size, and scales logits as "
            "transformers cannot; export it with --format=safetensors"
        )


def _describe_for_transformers(
    model: ModelDescription, vocabulary: Vocabulary
) -> tuple[Origin, str]:
    """Returns an origin, without a tokenizer, and its gin file for a comparison of models."""
    settings = settings_of(model)
    if settings is None:
        raise ConversionError(
            "transformers has no such model, only imported families and models/t5.1.0.gin, "
            "t5.1.1.gin, gpt2.gin and llama.gin; export it with --format=safetensors"
        )
    values = {**settings.values, **special_ids(vocabulary)}
    family = family_of(dataclasses.replace(settings, values=values))
    file = GinFile(["A model that was trained here."])
    file.include("defaults.gin")
    family.write_gin(file)
    padding = model.parameter("transformer.TokenEmbedding", "padding_id")
    if padding:
        file.bind("transformer.TokenEmbedding", {"padding_id": padding})
    file.macro("VOCABULARY", reference("@data.IdVocabulary()"))
    size = settings.integer("vocab_size")
    file.bind("data.IdVocabulary", {"size": size, "pad_id": padding or 0})
    generation = {n: values[n] for n in _SPECIAL_IDS if n in values}
    files = {
        name: (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
        for name, content in ((CONFIG, values), (GENERATION_CONFIG, generation))
    }
    shards = {SINGLE: {name: "F32" for row in family.table().rows for name in row.names}}
    return Origin(shards, {"format": "pt"}, {}, files, {}, keeps_files=False), file.text()


def model_of_origin(origin: Origin) -> Family:
    settings = Settings(parse_json(origin.files[CONFIG]), CONFIG, frozenset(origin.dtypes))
    family = family_of(settings)
    if origin.copies.items() - family.ties.items():
        raise ConversionError(
            f"the copies of tensors do not match {CONFIG}: import the model again"
        )
    tensors = settings.tensors - set(origin.copies)
    return family_of(dataclasses.replace(settings, tensors=tensors))


def export_folder(
    directory: pathlib.Path,
    values: Mapping[str, np.ndarray],
    origin: Origin,
    max_shard_bytes: int | None = None,
) -> None:
    """Writes the files of a model for transformers into an empty directory.

    Unchanged imported values keep their original bytes. Without `max_shard_bytes` the files are the
    origin's, or at most 50 GB. ConversionError if the configuration is another model's.
    """
    family = model_of_origin(origin)
    table = family.table()
    table.check_names(family.settings.tensors, "the run")
    tensors = _tensors(table, values, origin)
    reuse = max_shard_bytes is None and origin.keeps_files
    if reuse:
        shards = {file: {n: tensors[n] for n in names} for file, names in origin.shards.items()}
    else:
        shards = shards_by_size(tensors, max_shard_bytes)
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
        raise ConversionError(
            "a tensor of the run has another dtype than floats: import the model again"
        )
    missing = set(dtypes) - set(tensors) - set(origin.kept)
    if missing:
        raise ConversionError(f"the run has no values of {min(missing)}: import the model again")
    tensors = {name: value.astype(dtypes[name]) for name, value in tensors.items()}
    return {**origin.kept, **tensors}
