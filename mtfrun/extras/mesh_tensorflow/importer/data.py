from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtfrun.configuration.files import shipped_gin_files
from mtfrun.configuration.gin_values import Reference, reference, references_in, value_text
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.mesh_tensorflow.importer.config import SourceConfig, name_of
from mtfrun.extras.mesh_tensorflow.importer.gin import Draft

_T5_DATA = ("mesh_train_dataset_fn", "mesh_eval_dataset_fn", "mesh_inference_dataset_fn")
_FUNCTIONS = ("run.train_dataset_fn", "run.eval_dataset_fn", "run.predict_fn", "run.vocabulary")
_WHY = "makes the data of the original: name yours in TRAINING_DATA and VOCABULARY"
# The version at the end of a seqio name; names that differ from our files'.
_VERSION = re.compile(r"_v\d{3}$")
_RECIPES = {
    "squad_v010": "squad",
    "squad_v010_allanswers": "squad",
    "glue_mnli_and_dev_v002": "glue_mnli",
    "glue_wnli_v002_simple_eval": "glue_wnli",
    "glue_v002_proportional": "glue",
    "super_glue_v102_proportional": "super_glue",
    "super_glue_wsc_v102_simple_train": "super_glue_wsc",
    "super_glue_wsc_v102_simple_eval": "super_glue_wsc",
    "dpr_v001_simple": "definite_pronoun_resolution",
}
_SEARCHES = "Bitransformer.decode", "Unitransformer.sample_autoregressive"


class RowForm(enum.Enum):
    TEXTS = enum.auto()
    PAIRS = enum.auto()
    PAIRS_IN_A_ROW = enum.auto()


def read_lengths(source: SourceConfig) -> dict[str, int]:
    lengths = source.get("run.sequence_length") or {"inputs": 512, "targets": 512}
    if type(lengths) is int:
        lengths = {"inputs": lengths, "targets": lengths}
    if not isinstance(lengths, dict) or "targets" not in lengths:
        lengths = {"": None}
    result = {
        feature: _targets_length(source) if isinstance(length, Reference) else length
        for feature, length in lengths.items()
    }
    if not all(type(length) is int and length > 0 for length in result.values()):
        raise ConversionError(
            f"run.sequence_length = {value_text(source.get('run.sequence_length'))} is neither a "
            "number of positions nor one for each feature: {'inputs': 512, 'targets': 114}"
        )
    return result


def _targets_length(source: SourceConfig) -> int:
    """Returns the length of the targets when span corruption fills the inputs exactly."""
    inputs, density, mean = (
        source.get_optional(f"random_spans_helper.{name}", 0)
        for name in ("inputs_length", "noise_density", "mean_noise_span_length")
    )
    if not inputs or not mean or density is None or not 0 <= density < 1:
        raise ConversionError(
            "run.sequence_length comes from random_spans_helper, which needs inputs_length,"
            " mean_noise_span_length, and a noise_density below 1"
        )

    def lengths(tokens: int) -> tuple[int, int]:
        noise = round(tokens * density)
        spans = round(noise / mean)
        return tokens - noise + spans + 1, noise + spans + 1

    tokens = inputs - 1
    while lengths(tokens + 1)[0] <= inputs:
        tokens += 1
    targets = lengths(tokens)[1]
    return targets - 1 if density == 0.5 and targets > lengths(tokens)[0] else targets


def write_data(
    source: SourceConfig, draft: Draft, lengths: Mapping[str, int], rows: RowForm
) -> None:
    objective = _objective(source, draft)
    if rows is RowForm.TEXTS:
        draft.macro("SEQUENCE_LENGTH", lengths["targets"])
        draft.bind("experiment.Experiment", {"data": reference("@data.LanguageModelData()")})
    elif rows is RowForm.PAIRS_IN_A_ROW:
        draft.include("data/pairs.gin", "data/delimited_pairs.gin")
        draft.macro("SEQUENCE_LENGTH", sum(lengths.values()))
        if "inputs" not in lengths:
            inputs = (lengths["targets"] + 1) // 2
            lengths = {"inputs": inputs, "targets": lengths["targets"] - inputs}
    else:
        draft.include("data/pairs.gin" if objective is None else "data/span_corruption.gin")
        draft.macro("SEQUENCE_LENGTH", max(lengths.values()))
        if objective is not None:
            draft.macro("OBJECTIVE", objective)
    if rows is not RowForm.TEXTS:
        draft.macro("INPUTS_LENGTH", lengths["inputs"])
        draft.macro("TARGETS_LENGTH", lengths["targets"])
        if objective is None or rows is RowForm.PAIRS_IN_A_ROW:
            # Only T5's data functions pack several pairs into a row.
            function = source.get("run.train_dataset_fn", None)
            is_of_t5 = isinstance(function, Reference) and name_of(function) in _T5_DATA
            packed = is_of_t5 and source.get("mesh_train_dataset_fn.pack", default=True)
            draft.macro("PACKED", packed, "several pairs a row")
    is_text = objective is not None or rows is RowForm.TEXTS
    tasks = (_RECIPES.get(name, _VERSION.sub("", name)) for name in names_of_data(source))
    paths = (f"extras/t5/tasks/{task}.gin" for task in tasks)
    recipes = [path for path in paths if path in shipped_gin_files()]
    example = "data/text_files.gin" if is_text else next(iter(recipes), "data/tsv_pairs.gin")
    comment = f"or a file of data behind this one: --gin_file={example}"
    draft.macro("TRAINING_DATA", reference("@data.NoSource()"), comment)
    draft.bind("data.Task", {"source": reference("%TRAINING_DATA")})


def names_of_data(source: SourceConfig) -> list[str]:
    """Returns the names of tasks, and counts the data functions as ignored."""
    names: list[str] = []
    for target in _FUNCTIONS:
        value = source.get(target, None)
        for function in references_in(value):
            name = name_of(function)
            _ignore_calls(source, function)
            task = source.parameters_of(name).get("mixture_or_task_name")
            if isinstance(task, str):
                names.append(task)
            elif target == "run.train_dataset_fn":
                names.append(str(function).strip("@()"))
        if value is not None:
            source.ignore(target, _WHY)
    return list(dict.fromkeys(names))


def _ignore_calls(source: SourceConfig, function: Reference) -> None:
    names: set[str] = set()
    functions = [function]
    while functions:
        name = name_of(functions.pop())
        if name not in names:
            names.add(name)
            source.ignore_calls_of(name, _WHY)
            functions += references_in(source.parameters_of(name))


def _objective(source: SourceConfig, draft: Draft) -> Reference | None:
    functions = source.get_optional("unsupervised.preprocessors", []) or []
    if "denoise" not in map(name_of, functions):
        return None
    density = source.get_optional("denoise.noise_density", 0)
    steps = [source.get(f"denoise.{name}") for name in ("noise_mask_fn", "inputs_fn", "targets_fn")]
    key = tuple(name_of(step) if isinstance(step, Reference) else None for step in steps)
    if key not in _OBJECTIVES:
        source.refuse("denoise.inputs_fn", f"no objective here does {' and '.join(map(str, key))}")
        return None
    cls, parameters = _OBJECTIVES[key]
    parameters = {"noise_density": density, **parameters}
    if cls == "data.SpanCorruption":
        mean = source.get("random_spans_noise_mask.mean_noise_span_length", 3.0)
        draft.macro("NOISE_DENSITY", density)
        draft.macro("MEAN_NOISE_SPAN_LENGTH", mean)
        return reference("@data.SpanCorruption()")
    if _TO_RANDOM in key:
        parameters["random_probability"] = source.get(f"{_TO_RANDOM}.random_prob", 0.1)
    draft.bind(cls, parameters)
    return reference(f"@{cls}()")


_MASKED = "data.MaskedLanguageModel"
_TO_RANDOM = "noise_token_to_random_token_or_sentinel"
_PREFIX = ("random_prefix_noise_mask", "drop_nonnoise_tokens", "drop_noise_tokens")
_UNIQUE = ("noise_span_to_unique_sentinel", "nonnoise_span_to_unique_sentinel")
_ALL_TARGETS = {"full_targets": True, "random_probability": 0.0}
_OBJECTIVES: Mapping[Sequence[str | None], tuple[str, dict[str, Any]]] = {
    ("random_spans_noise_mask", *_UNIQUE): ("data.SpanCorruption", {}),
    ("iid_noise_mask", *_UNIQUE): ("data.IidDenoising", {}),
    ("iid_noise_mask", "drop_noise_tokens", "drop_nonnoise_tokens"): (
        "data.IidDenoising",
        {"with_sentinels": False},
    ),
    ("iid_noise_mask", "permute_noise_tokens", None): ("data.Deshuffling", {}),
    ("iid_noise_mask", "noise_token_to_sentinel", None): (_MASKED, _ALL_TARGETS),
    ("iid_noise_mask", _TO_RANDOM, None): (_MASKED, {"full_targets": True}),
    _PREFIX: ("data.PrefixLanguageModel", {}),
}


def write_decoding(source: SourceConfig, draft: Draft) -> None:
    search: dict[str, Any] = {}
    for cls in _SEARCHES:
        for name in ("beam_size", "alpha", "temperature", "sampling_keep_top_k"):
            if source.has(f"{cls}.{name}"):
                search[name.removeprefix("sampling_keep_")] = source.get(f"{cls}.{name}", 0)
    if search.get("top_k", 0) < 0:
        search["top_k"] = 0  # all
    if source.has("beam_search.stop_early"):
        search["stop_early"] = source.get("beam_search.stop_early", default=True)
    draft.bind("decoding.Search", search)
    limits = {"max_decode_length": 0, "decode_length_multiplier": 0.0, "decode_length_constant": 0}
    for name, example in limits.items():
        value = source.get_optional(f"Bitransformer.decode.{name}", example)
        if value is not None:
            draft.bind("experiment.Decoding", {name.removeprefix("max_"): value})
