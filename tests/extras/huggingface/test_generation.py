"""Settings of generation that are taken over, and those that are not."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import pytest

from mtfrun.configuration.gin_values import reference
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.experiment.runs.opening import RunObjects
from mtfrun.extras.huggingface.generation import Generation, read_generation
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from tests.cli.command import error_line, mtfrun_here
from tests.extras.huggingface.imported_models import (
    Imported,
    assert_same_folder,
    exported,
    imported_folder,
    run_program,
)

ANSWERS = {"vocab_size": 160, "is_encoder_decoder": True}
CONTINUES = {"vocab_size": 160}


def _read(
    directory: pathlib.Path, config: dict[str, Any], values: dict[str, Any] | None
) -> Generation:
    if values is not None:
        (directory / "generation_config.json").write_text(json.dumps(values))
    end_id = (values or {}).get("eos_token_id")
    return read_generation(Folder(directory), Settings(config), end_id)


@pytest.mark.parametrize(
    "config, values, decoding, search",
    [
        (CONTINUES, {"_from_model_config": True, "eos_token_id": 2}, {}, {}),
        (CONTINUES, {"max_new_tokens": 7, "max_length": 9}, {"decode_length": 7}, {}),
        (CONTINUES, {"max_length": 9}, {"max_length": 9}, {}),
        (
            ANSWERS,
            {"max_length": 20},
            {
                "decode_length": 19,
                "decode_length_multiplier": 0.0,
                "decode_length_constant": 1_000_000,
            },
            {},
        ),
        (
            CONTINUES,
            {"num_beams": 4, "length_penalty": 0.0, "num_return_sequences": 2},
            {"num_outputs": 2},
            {"beam_size": 4, "alpha": 0.0},
        ),
        (CONTINUES, {"do_sample": True}, {}, {"temperature": 1.0, "top_k": 50, "top_p": 1.0}),
        (
            CONTINUES,
            {"do_sample": True, "temperature": 0.5, "top_k": 999, "top_p": 0.9},
            {},
            {"temperature": 0.5, "top_k": 0, "top_p": 0.9},
        ),
        (CONTINUES, {"do_sample": False, "temperature": 0.5, "top_p": 0.9}, {}, {}),
    ],
)
def test_settings_of_decoding_are_taken_over(
    tmp_path: pathlib.Path,
    config: dict[str, Any],
    values: dict[str, Any],
    decoding: dict[str, object],
    search: dict[str, object],
) -> None:
    expected = {"experiment.Decoding": decoding, "decoding.Search": search}
    generation = _read(tmp_path, config, values)
    assert generation == Generation({name: x for name, x in expected.items() if x})


@pytest.mark.parametrize(
    "config, values, controls",
    [
        (
            CONTINUES,
            {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_p": 0.1},
            {
                "decoding.Controls": {
                    "processors": [
                        reference("@decoding.RepetitionPenalty()"),
                        reference("@decoding.NoRepeatNGram()"),
                    ]
                },
                "decoding.RepetitionPenalty": {"penalty": 1.2},
                "decoding.NoRepeatNGram": {"size": 3},
            },
        ),
        (
            CONTINUES,
            {"do_sample": True, "min_p": 0.1, "typical_p": 0.9},
            {
                "decoding.Controls": {
                    "filters": [reference("@decoding.MinP()"), reference("@decoding.Typical()")]
                },
                "decoding.MinP": {"share": 0.1},
                "decoding.Typical": {"share": 0.9},
            },
        ),
        *(
            (
                config,
                values,
                {
                    "decoding.Controls": {"processors": [reference("@decoding.MinLength()")]},
                    "decoding.MinLength": least,
                },
            )
            for config, values, least in (
                (CONTINUES, {"min_length": 9}, {"length": 9, "with_prompt": True}),
                (ANSWERS, {"min_length": 9}, {"length": 8}),
                (CONTINUES, {"min_length": 9, "min_new_tokens": 4}, {"length": 4}),
            )
        ),
        (
            ANSWERS,
            {
                **{"forced_bos_token_id": 0, "forced_eos_token_id": [2, 7]},
                **{"bad_words_ids": [[5], [2], [9, 3]], "eos_token_id": 2},
                **{"suppress_tokens": [8], "begin_suppress_tokens": [4, 2]},
            },
            {
                "decoding.Controls": {
                    "processors": [
                        reference("@huggingface.ForbiddenWords()"),
                        reference("@huggingface.FirstIds()"),
                        reference("@huggingface.LastIds()"),
                        reference("@huggingface.ForbiddenIds()"),
                        reference("@huggingface.ForbiddenFirstIds()"),
                    ]
                },
                "huggingface.ForbiddenWords": {"words": [[5], [9, 3]]},
                "huggingface.ForbiddenIds": {"ids": [8]},
                "huggingface.ForbiddenFirstIds": {"ids": [4, 2], "position": 1},
                "huggingface.FirstIds": {"ids": [0]},
                "huggingface.LastIds": {"ids": [2, 7]},
            },
        ),
    ],
)
def test_controls_are_taken_over(
    tmp_path: pathlib.Path,
    config: dict[str, Any],
    values: dict[str, Any],
    controls: dict[str, dict[str, object]],
) -> None:
    bindings = _read(tmp_path, config, values).bindings
    assert bindings.items() >= controls.items()
    assert set(bindings) == {"decoding.Search", *controls}
    assert bindings["decoding.Search"]["controls"] == reference("@decoding.Controls()")


@pytest.mark.parametrize(
    "config, values, controls",
    [
        ({"eos_token_id": 2}, {"eos_token_id": [7, 2, 7, 5]}, {"end_ids": [7, 5]}),
        (
            {"eos_token_id": 2},
            {"eos_token_id": [7, 5]},
            {"end_ids": [7, 5], "vocabulary_end": False},
        ),
        ({"eos_token_id": 2}, {}, {"vocabulary_end": False}),
        ({"eos_token_id": [2, 5]}, None, {"end_ids": [5]}),
    ],
)
def test_outputs_end_with_the_ids_of_generation_config_or_else_of_config(
    tmp_path: pathlib.Path,
    config: dict[str, Any],
    values: dict[str, Any] | None,
    controls: dict[str, object],
) -> None:
    if values is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(values))
    settings = Settings({**CONTINUES, **config})
    generation = read_generation(Folder(tmp_path), settings, end_id=2)
    assert generation.bindings["decoding.Controls"] == controls


def test_settings_of_older_folders_are_in_config_json(tmp_path: pathlib.Path) -> None:
    generation = _read(tmp_path, {**CONTINUES, "num_beams": 2, "length_penalty": 0.0}, None)
    assert generation == Generation({"decoding.Search": {"beam_size": 2, "alpha": 0.0}})


@pytest.mark.parametrize(
    "values, note",
    [
        (
            {"diversity_penalty": 1.2, "renormalize_logits": False, "bad_words_ids": [3, 4]},
            "not supported in decoding, and left out: diversity_penalty, bad_words_ids",
        ),
        ({"num_beams": 2, "length_penalty": 1.0}, "length_penalty=1.0 divides by length^1.0"),
        ({"num_beams": 2, "length_penalty": 0.0, "do_sample": True}, "beams without draws"),
    ],
)
def test_what_is_not_taken_over_is_said(
    tmp_path: pathlib.Path, values: dict[str, Any], note: str
) -> None:
    (line,) = _read(tmp_path, CONTINUES, values).notes
    assert line.startswith("generation_config.json: ") and note in line


@pytest.mark.parametrize(
    "values",
    [
        *({"max_length": "x"}, {"num_beams": 0}, {"do_sample": 1}, {"max_new_tokens": 1.5}),
        {"max_new_tokens": 10**12},
    ],
)
def test_impossible_values_are_refused(tmp_path: pathlib.Path, values: dict[str, Any]) -> None:
    (name,) = values
    with pytest.raises(ConversionError, match=f"generation_config.json: {name}="):
        _read(tmp_path, CONTINUES, values)


PROGRAM = pathlib.Path(__file__).with_name("transformers_tokenizers.py")
TEXTS = ["The quick fox.", " naïve  café, déjà vu ", "Zürich </s> 12", "", "日本 fox"]


def _model(name: str, tmp_path: pathlib.Path) -> Imported:
    run_program(PROGRAM, name, tmp_path / "folder")
    return imported_folder(name, tmp_path / "folder")


def _ids(built: RunObjects, feature: str) -> list[list[int]]:
    vocabularies = built.experiment.data.vocabularies
    vocabulary = vocabularies.get(feature) or next(iter(vocabularies.values()))
    batch = vocabulary.encode_texts([text.encode() for text in TEXTS])
    ids = [[*vocabulary.encode(text).tolist(), vocabulary.end_id] for text in TEXTS]
    assert batch.ids.tolist() == [number for row in ids for number in row[:-1]]
    return ids


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["mbart", "mbart50", "nllb", "nllb, legacy", "xlm-roberta", "camembert"]
)
def test_inputs_have_the_ids_of_transformers(name: str, tmp_path: pathlib.Path) -> None:
    model = _model(name, tmp_path)
    theirs = json.loads((model.folder / "ids.json").read_text())
    (model.folder / "ids.json").unlink()
    built = model.opened()
    assert _ids(built, "inputs") == theirs["inputs"]
    if name in ("mbart50", "nllb"):
        assert _ids(built, "targets") == theirs["targets"]
    assert_same_folder(exported(model), model.folder)


@pytest.mark.slow
def test_a_macro_chooses_the_language_of_outputs(tmp_path: pathlib.Path) -> None:
    model = _model("nllb", tmp_path)
    built = model.opened(SOURCE_LANGUAGE="deu_Latn", TARGET_LANGUAGE="spa_Latn")
    first = {name: ids[0][0] for name in ("inputs", "targets") for ids in [_ids(built, name)]}
    vocabulary = built.experiment.data.vocabularies["targets"]
    assert first == {
        "inputs": vocabulary.id_of("deu_Latn"),  # type: ignore[attr-defined]
        "targets": vocabulary.id_of("spa_Latn"),  # type: ignore[attr-defined]
    }
    (record,) = built.experiment.inference.with_settings({"decode_length": 1}).records([b"fox"])
    # The first id is the language's, which is no part of the text.
    assert record.fields["output_tokens"] == 1 and record.texts == [""]
    flags = [f"--model_dir={model.run}", "--prompt=fox", "--gin.TARGET_LANGUAGE='spa_Latin'"]
    line = error_line(mtfrun_here("decode", *flags))
    assert 'no token "spa_Latin"' in line and "did you mean 'spa_Latn'" in line


@pytest.mark.slow
def test_a_language_that_the_tokenizer_lacks_is_refused(tmp_path: pathlib.Path) -> None:
    run_program(PROGRAM, "nllb", tmp_path / "folder")
    path = tmp_path / "folder" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "src_lang": "xx"}))
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    flags = [f"--from={tmp_path / 'folder'}", f"--model_dir={tmp_path / 'run'}"]
    line = error_line(mtfrun_here("import", *flags))
    assert "has no language token 'xx'" in line
