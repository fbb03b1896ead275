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
_TAKEN = ("max_length", "max_new_tokens", "num_beams", "num_return_sequences", "length_penalty")
_TAKEN_BY_SAMPLING = ("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p")
# Processors: our class, its parameter, and the value without effect.
_PROCESSORS: Mapping[str, tuple[str, str, Any]] = {
    "repetition_penalty": ("decoding.RepetitionPenalty", "penalty", 1.0),
    "no_repeat_ngram_size": ("decoding.NoRepeatNGram", "size", 0),
    "min_length": ("decoding.MinLength", "length", 0),
    "min_new_tokens": ("decoding.MinLength", "length", 0),
}
# Processors of ids, in transformers' order.
_OF_IDS: Mapping[str, str] = {
    "bad_words_ids": "decoding.ForbiddenWords",
    "forced_bos_token_id": "decoding.FirstIds",
    "forced_eos_token_id": "decoding.LastIds",
    "suppress_tokens": "decoding.ForbiddenIds",
    "begin_suppress_tokens": "decoding.ForbiddenFirstIds",
}
_FILTERS: Mapping[str, tuple[str, str, Any]] = {
    "min_p": ("decoding.MinP", "share", 0.0),
    "typical_p": ("decoding.Typical", "share", 1.0),
}


@dataclasses.dataclass(frozen=True)
class Generation:
    """Parameters of `experiment.Decoding` and `decoding.Search`, and notes on omitted settings.

    `controls` has the parameters of `decoding.Controls` and the classes that it names. `start_id`
    is a decoder's first input, if config.json lacks it.
    """

    decoding: Mapping[str, object] = dataclasses.field(default_factory=dict)
    search: Mapping[str, object] = dataclasses.field(default_factory=dict)
    controls: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    start_id: int = 0

    def write_gin(self, file: GinFile, directory: pathlib.Path) -> None:
        if self.start_id:
            file.bind("transformer.TokenEmbedding", {"start_id": self.start_id})
        controls = {"controls": reference("@decoding.Controls()")} if self.controls else {}
        search = {**self.search, **controls}
        targets = {"experiment.Decoding": self.decoding, "decoding.Search": search}
        for target, parameters in {**targets, **self.controls}.items():
            if parameters:
                file.bind(target, parameters)


def read_generation(folder: Folder, settings: Settings, end_id: int | None = None) -> Generation:
    """Reads the settings, in older folders from config.json; end_id: the vocabulary's."""
    has_file = folder.has(GENERATION_CONFIG)
    if has_file:
        where = str(folder.path / GENERATION_CONFIG)
        values = Settings(folder.json_of(GENERATION_CONFIG), where)
    else:
        names = (*_TAKEN, *_TAKEN_BY_SAMPLING, *_PROCESSORS, *_OF_IDS, *_NEUTRAL, "eos_token_id")
        older = {name: settings.values[name] for name in names if name in settings.values}
        values = Settings(older, settings.where)
    is_answer = settings.flag("is_encoder_decoder", default=False)
    decoding = _limits(values, is_answer=is_answer)
    search, notes = _search(values, settings.integer("vocab_size"))
    outputs = values.integer("num_return_sequences", 1)
    if outputs > 1:
        decoding["num_outputs"] = min(outputs, values.integer("num_beams", 1))
    ids = _ids_by_setting(values, is_answer=is_answer)
    controls = _controls(values, ids, is_answer=is_answer, draws="temperature" in search)
    ends = _ends(values, end_id)
    if ends:
        controls["decoding.Controls"] = {**controls.get("decoding.Controls", {}), **ends}
    known = {*_TAKEN, *_TAKEN_BY_SAMPLING, *_PROCESSORS, *ids, *_IGNORED}
    unknown = {n: x for n, x in values.values.items() if n not in known and x is not None}
    omitted = [name for name, value in unknown.items() if value != _NEUTRAL.get(name)]
    if omitted:
        notes.append(f"not supported in decoding, and left out: {', '.join(omitted)}"[:300])
    name = GENERATION_CONFIG if has_file else CONFIG
    start_id = 0
    if is_answer and settings.values.get("decoder_start_token_id") is None:
        start_id = values.non_negative("decoder_start_token_id", 0)
    lines = tuple(f"{name}: {note}" for note in notes)
    return Generation(decoding, search, controls, lines, start_id=start_id)


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
    words = [word for word in listed if type(word) is list] if type(listed) is list else []
    words = [end_ids({"word": word}, "word") for word in words]
    ends = [[number] for number in end_ids(values.values)]
    words = [word for word in words if word and word not in ends]
    if words:
        parameters["bad_words_ids"] = {"words": words}
    return parameters


def _controls(
    values: Settings, ids: Mapping[str, dict[str, object]], *, is_answer: bool, draws: bool
) -> dict[str, dict[str, object]]:
    """Returns the parameters by class, `decoding.Controls` first."""
    controls: dict[str, object] = {}
    classes: dict[str, dict[str, object]] = {}
    tables = {"processors": _PROCESSORS, "filters": _FILTERS if draws else {}}
    for name, table in tables.items():
        references = []
        for setting, (target, parameter, neutral) in table.items():
            read = values.number if isinstance(neutral, float) else values.non_negative
            value = read(setting, neutral)
            # min_new_tokens replaces min_length.
            if value == neutral:
                continue
            if target not in classes:
                references.append(reference(f"@{target}()"))
            classes[target] = {parameter: value}
            if setting == "min_length" and is_answer:
                # It includes an answer's first id, and a continuation's prompt.
                classes[target] = {parameter: max(value - 1, 0)}
            elif setting == "min_length":
                classes[target] = {parameter: value, "with_prompt": True}
        if name == "processors":
            for setting, target in _OF_IDS.items():
                if setting in ids:
                    references.append(reference(f"@{target}()"))
                    classes[target] = ids[setting]
        if references:
            controls[name] = references
    return {"decoding.Controls": controls, **classes} if controls else classes


def _ends(values: Settings, end_id: int | None) -> dict[str, object]:
    """Returns the parameters of `decoding.Controls` for ends."""
    ends = list(dict.fromkeys(end_ids(values.values)))
    further = [number for number in ends if number != end_id]
    parameters: dict[str, object] = {"end_ids": further} if further else {}
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
