from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.gin_values import reference
from mtfrun.configuration.gin_writer import GinFile
from mtfrun.extras.huggingface.tables.folder import CONFIG, GENERATION_CONFIG, Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.huggingface.tokenizers.tokenizer import end_ids

# Ignored, or already part of the vocabulary and the model.
_IGNORED = (
    *("transformers_version", "_from_model_config", "use_cache", "cache_implementation"),
    *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
    *("return_dict_in_generate", "pad_token_id", "bos_token_id", "decoder_start_token_id"),
    *("eos_token_id", "early_stopping", "is_assistant", "num_assistant_tokens"),
    *("num_assistant_tokens_schedule", "assistant_confidence_threshold"),
    *("assistant_lookbehind", "target_lookbehind", "remove_invalid_values", "_commit_hash"),
)
# Values without effect.
_NEUTRAL: Mapping[str, Any] = {
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "renormalize_logits": False,
}
_NO_LIMIT = 1_000_000
_TAKEN = (
    *("max_length", "max_new_tokens", "num_beams", "num_return_sequences", "length_penalty"),
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repetition_penalty", "no_repeat_ngram_size", "min_length", "min_new_tokens"),
)
# Processors of ids, in transformers' order.
_OF_IDS: Mapping[str, str] = {
    "bad_words_ids": "ForbiddenWords",
    "forced_bos_token_id": "FirstIds",
    "forced_eos_token_id": "LastIds",
    "suppress_tokens": "ForbiddenIds",
    "begin_suppress_tokens": "ForbiddenFirstIds",
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """Parameters for decoding by class, macros with comments, and notes on omitted settings."""

    bindings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    macros: Mapping[str, tuple[object, str]] = dataclasses.field(default_factory=dict)

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        for name, (value, comment) in self.macros.items():
            file.macro(name, value, comment)
        for target, parameters in self.bindings.items():
            file.bind(target, parameters)


def read_generation(folder: Folder, settings: Settings, end_id: int | None = None) -> Generation:
    """Reads the settings, in older folders from config.json; end_id: the vocabulary's."""
    name = GENERATION_CONFIG if folder.has(GENERATION_CONFIG) else CONFIG
    if name == GENERATION_CONFIG:
        values = Settings(folder.json_of(name), str(folder.path / name))
    else:
        names = (*_TAKEN, *_OF_IDS, *_NEUTRAL, "eos_token_id")
        older = {name: settings.values[name] for name in names if name in settings.values}
        values = Settings(older, settings.where)
    is_answer = settings.flag("is_encoder_decoder", default=False)
    decoding = _limits(values, is_answer=is_answer)
    search, notes = _search(values, settings.integer("vocab_size"))
    outputs = values.integer("num_return_sequences", 1)
    if outputs > 1:
        decoding["num_outputs"] = min(outputs, values.integer("num_beams", 1))
    ids = _ids_by_setting(values, is_answer=is_answer)
    processors = _processors(values, is_answer=is_answer)
    processors |= {f"huggingface.{_OF_IDS[x]}": ids[x] for x in _OF_IDS if x in ids}
    filters = _filters(values) if "temperature" in search else {}
    parts = {"processors": processors, "filters": filters}
    controls = {x: [reference(f"@{cls}()") for cls in y] for x, y in parts.items() if y}
    controls |= _ends(values, end_id)
    if controls:
        search["controls"] = reference("@decoding.Controls()")
    start = 0  # the decoder's first input, if config.json lacks it
    if is_answer and settings.values.get("decoder_start_token_id") is None:
        start = values.non_negative("decoder_start_token_id", 0)
    bindings: dict[str, Mapping[str, Any]] = {
        "transformer.TokenEmbedding": {"start_id": start} if start else {},
        "experiment.Decoding": decoding,
        "decoding.Search": search,
        "decoding.Controls": controls,
        **processors,
        **filters,
    }
    known = {*_TAKEN, *ids, *_IGNORED}
    unknown = {n: x for n, x in values.values.items() if n not in known and x is not None}
    omitted = [x for x, value in unknown.items() if value != _NEUTRAL.get(x)]
    if omitted:
        notes.append(f"not supported in decoding, and left out: {', '.join(omitted)}"[:300])
    lines = tuple(f"{name}: {note}" for note in notes)
    return Generation({target: x for target, x in bindings.items() if x}, lines)


def _limits(values: Settings, *, is_answer: bool) -> dict[str, object]:
    """`max_length` includes an answer's first id, and a continuation's prompt."""
    name = "max_length" if values.values.get("max_new_tokens") is None else "max_new_tokens"
    number = values.optional_integer(name)
    if number is None or (name == "max_length" and not is_answer):
        return {} if number is None else {name: number}
    number -= int(name == "max_length" and number > 1)
    if number > _NO_LIMIT:
        raise values.error(name, f"must be at most {_NO_LIMIT:,}: correct it, or remove it")
    # An answer's length is not limited by its prompt's.
    unlimited = {"decode_length_multiplier": 0.0, "decode_length_constant": _NO_LIMIT}
    return {"decode_length": number, **(unlimited if is_answer else {})}


def _ids_by_setting(values: Settings, *, is_answer: bool) -> dict[str, dict[str, object]]:
    """Returns the parameters of processors of ids, by setting."""
    ids = {name: end_ids(values.values, name) for name in _OF_IDS}
    if not is_answer:
        # There it applies to prompts of one id.
        ids["forced_bos_token_id"] = []
    parameters: dict[str, dict[str, object]] = {x: {"ids": y} for x, y in ids.items() if y}
    if ids["forced_bos_token_id"] and ids["begin_suppress_tokens"]:
        # The id after the forced id.
        parameters["begin_suppress_tokens"]["position"] = 1
    parameters.pop("bad_words_ids", None)
    listed = values.values.get("bad_words_ids")
    words = (
        [end_ids({"": x}, "") for x in listed if type(x) is list] if type(listed) is list else []
    )
    ends = [[number] for number in end_ids(values.values)]
    words = [word for word in words if word and word not in ends]
    return parameters | ({"bad_words_ids": {"words": words}} if words else {})


def _processors(values: Settings, *, is_answer: bool) -> dict[str, dict[str, object]]:
    penalty = values.number("repetition_penalty", 1.0)
    size = values.non_negative("no_repeat_ngram_size", 0)
    length, new_tokens = (values.non_negative(f"min_{x}", 0) for x in ("length", "new_tokens"))
    processors: dict[str, dict[str, object]] = {}
    if penalty != 1.0:
        processors["decoding.RepetitionPenalty"] = {"penalty": penalty}
    if size:
        processors["decoding.NoRepeatNGram"] = {"size": size}
    if new_tokens:
        processors["decoding.MinLength"] = {"length": new_tokens}
    elif length and is_answer:  # with an answer's first id
        processors["decoding.MinLength"] = {"length": length - 1}
    elif length:  # with a continuation's prompt
        processors["decoding.MinLength"] = {"length": length, "with_prompt": True}
    return processors


def _filters(values: Settings) -> dict[str, dict[str, object]]:
    shares = {"MinP": values.number("min_p", 0.0), "Typical": values.number("typical_p", 1.0)}
    neutral = {"MinP": 0.0, "Typical": 1.0}
    return {f"decoding.{x}": {"share": y} for x, y in shares.items() if y != neutral[x]}


def _ends(values: Settings, end_id: int | None) -> dict[str, Any]:
    """Returns the parameters of `decoding.Controls` for ends."""
    ends = list(dict.fromkeys(end_ids(values.values)))
    further = [number for number in ends if number != end_id]
    parameters: dict[str, Any] = {"end_ids": further} if further else {}
    if end_id is not None and end_id not in ends:
        parameters["vocabulary_end"] = False
    return parameters


def _search(values: Settings, vocabulary_size: int) -> tuple[dict[str, object], list[str]]:
    search: dict[str, object] = {}
    notes: list[str] = []
    beams = values.integer("num_beams", 1)
    draws = values.flag("do_sample", default=False)
    if beams > 1:
        search["beam_size"] = beams
        penalty = values.number("length_penalty", 1.0)
        search["alpha"] = max(penalty, 0.0)
        if penalty:
            notes.append(
                f"length_penalty={penalty} divides by length^{penalty} there, here by "
                f"((5 + length) / 6)^{max(penalty, 0.0)}"
            )
        if draws:
            notes.append("do_sample with num_beams is not supported: beams without draws")
    elif draws:
        search["temperature"] = values.number("temperature", 1.0)
        # transformers' default is 50.
        top_k = values.non_negative("top_k", 50)
        search["top_k"] = 0 if top_k >= vocabulary_size else top_k
        search["top_p"] = values.number("top_p", 1.0)
    return search, notes
