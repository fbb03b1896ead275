"""The configuration of a folder for a model that was not imported."""

from __future__ import annotations

import json

from mtfrun.conversion.errors import ConversionError
from mtfrun.conversion.gin_text import GinFile, Reference
from mtfrun.conversion.hugging_face.folder import CONFIG, GENERATION_CONFIG, SINGLE
from mtfrun.conversion.hugging_face.known_families import FAMILIES
from mtfrun.conversion.hugging_face.origin import Origin
from mtfrun.conversion.model_description import ModelDescription

_GENERATION = ("pad_token_id", "eos_token_id", "decoder_start_token_id")


def made_here(model: ModelDescription) -> tuple[Origin, str]:
    """Returns what a folder of the model is made of, and the gin file that an import would write.

    The caller compares the model with that of the gin file.

    Raises:
      ConversionError: the model is none of a family.
    """
    for family in FAMILIES:
        settings = family.settings_of(model)
        if settings is None:
            continue
        file = GinFile(["A model that was trained here."])
        file.include("defaults.gin")
        family.write_gin(settings, file)
        file.macro("VOCABULARY", Reference("@data.IdVocabulary()"))
        file.bind("data.IdVocabulary", {"size": settings.integer("vocab_size")})
        names = [name for row in family.table(settings).rows for name in row.names]
        generation = {n: settings.values[n] for n in _GENERATION if n in settings.values}
        files = {CONFIG: _json(settings.values), GENERATION_CONFIG: _json(generation)}
        shards = {SINGLE: dict.fromkeys(names, "F32")}
        origin = Origin(shards, {"format": "pt"}, {}, files, {}, keeps_files=False)
        return origin, file.text()
    raise ConversionError(
        "the model is none that transformers has: those of import are, and encoder-decoders of "
        "models/t5.1.0.gin and models/t5.1.1.gin; export it with --format=safetensors"
    )


def _json(values: object) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
