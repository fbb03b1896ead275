from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.data import Vocabulary
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import Settings
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.copied_files import IMPORTED_CONFIG, ORIGIN_FOLDER
from mtfrun.tools.conversion import ConversionError, ModelDescription
from mtfrun.tools.conversion.hugging_face import (
    Origin,
    describe_model,
    has_tokenizer_of,
    read_origin,
    with_tokenizer,
    without_tokenizer,
)

_IMPORTED_VOCABULARY = (
    ("VOCABULARY", "VOCABULARY = @data.IdVocabulary()"),
    ("IdVocabulary.size", "data.IdVocabulary.size = {size}"),
    ("IdVocabulary.pad_id", "data.IdVocabulary.pad_id = {pad_id}"),
)


class _Described(NamedTuple):
    model: ModelDescription
    vocabularies: Sequence[Vocabulary]


def origin_of_run(
    run: RunDirectory, allowed_imports: Sequence[str], *, weights_only: bool = False
) -> Origin:
    """Returns the configuration, the types and the files with which a run is exported.

    They are the folder's for an imported run, and for one that started from it by INIT_CHECKPOINT,
    else made for the model. The tokenizer, unless `weights_only`, is made from the run's
    vocabulary. Raises ConversionError if the folder, a supported family or transformers cannot
    express them.
    """
    directory = pathlib.Path(run.path)
    origin = read_origin(directory)
    if origin is not None and run.read_config() == origin.configuration:
        return without_tokenizer(origin) if weights_only else origin
    run_config = pathlib.Path(run.config_path)
    model, vocabularies = _describe(run_config, Settings(allowed_imports=allowed_imports))
    if origin is not None:
        imported = directory / ORIGIN_FOLDER / IMPORTED_CONFIG
        settings = Settings()
        if vocabularies:  # the import's vocabulary files may have moved
            numbers = {
                "size": max(model.vocabulary_sizes.values()),
                "pad_id": vocabularies[0].pad_id,
            }
            settings = Settings(
                bindings=[(n, t.format(**numbers)) for n, t in _IMPORTED_VOCABULARY]
            )
        model.check_computes_as(_describe(imported, settings).model, str(imported))
        if not vocabularies or (
            len(vocabularies) == 1 and has_tokenizer_of(origin, vocabularies[0])
        ):
            return without_tokenizer(origin) if weights_only else origin
    if len(vocabularies) != 1:
        raise ConversionError(
            f"transformers has one tokenizer for a model, and the run has {len(vocabularies)} "
            "vocabularies; export it with --format=safetensors"
        )
    if origin is None:
        origin, text = describe_model(model, vocabularies[0])
        with tempfile.TemporaryDirectory() as temporary:
            path = pathlib.Path(temporary, "config.gin")
            path.write_text(text, encoding="utf-8")
            theirs = _describe(path, Settings()).model
            model.check_computes_as(theirs, "a model that transformers has")
    return without_tokenizer(origin) if weights_only else with_tokenizer(origin, vocabularies[0])


def _describe(path: pathlib.Path, settings: Settings) -> _Described:
    with config.exclusive():
        settings.parse(str(path))
        with mtf.planned_meshes():
            experiment, _ = build()
        parameters = config.operative_parameters()
    model = experiment.model
    mtf.assign_paths(model)
    variables = model.named_variables()
    shapes = {path: tuple(v.shape.to_integer_list) for path, v in variables.items()}
    vocabularies = {v.fingerprint: v for v in experiment.data.vocabularies.values()}
    return _Described(
        ModelDescription(parameters, shapes, model.vocabulary_sizes), list(vocabularies.values())
    )
