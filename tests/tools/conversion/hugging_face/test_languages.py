"""Multilingual tokenizers: the tokens of languages and ends around texts, as transformers' are."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest

from mtfrun.experiment.runs.opening import RunObjects
from tests.cli.command import error_line, mtfrun_here
from tests.tools.conversion.hugging_face.imported_models import (
    Imported,
    assert_same_folder,
    exported,
    imported_folder,
    run_program,
)

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
    assert "has no token 'xx', the language of inputs" in line
