"""The configuration of a folder for a model that was not imported."""

from __future__ import annotations

import dataclasses
import json

from mtfrun.configuration.gin_values import reference
from mtfrun.data import Vocabulary
from mtfrun.tools.conversion.errors import ConversionError
from mtfrun.tools.conversion.gin_file import GinFile
from mtfrun.tools.conversion.hugging_face.folder import CONFIG, GENERATION_CONFIG, SINGLE
from mtfrun.tools.conversion.hugging_face.known_families import FAMILIES
from mtfrun.tools.conversion.hugging_face.origin import Origin
from mtfrun.tools.conversion.model_description import ModelDescription

_GENERATION = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")


def made_here(model: ModelDescription, vocabulary: Vocabulary) -> tuple[Origin, str]:
    """Returns the origin of an exported model, and the gin file that importing it would write.

    The caller compares the model with the gin file's model, and adds the tokenizer.

    Args:
      model: the model that was built.
      vocabulary: has the ids that start and end texts.

    Raises:
      ConversionError: the model does not belong to a supported family.
    """
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
        generation = {n: values[n] for n in _GENERATION if n in values}
        files = {CONFIG: _json(values), GENERATION_CONFIG: _json(generation)}
        shards = {SINGLE: dict.fromkeys(names, "F32")}
        origin = Origin(shards, {"format": "pt"}, {}, files, {}, keeps_files=False)
        return origin, file.text()
    raise ConversionError(
        "the model is none that transformers has: those of import are, and models of "
        "models/t5.1.0.gin, t5.1.1.gin, gpt2.gin and llama.gin; export it with --format=safetensors"
    )


def special_ids(vocabulary: Vocabulary) -> dict[str, int | None]:
    """Returns the ids for padding and for the start and end of texts, by name in config.json."""
    begin = vocabulary.encode("").tolist()
    return {
        "pad_token_id": vocabulary.pad_id if vocabulary.pad_id >= 0 else None,
        "eos_token_id": vocabulary.end_id if vocabulary.end_id >= 0 else None,
        "bos_token_id": begin[0] if begin else None,
    }


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
