"""The command export, for transformers: folders that it loads."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

import mtfrun
from mtfrun.experiment.conversion import values_of_run
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.trained_models import ModelDescription
from mtfrun.rundir import RunDirectory
from tests.cli.command import (
    error_line,
    mtfrun_here,
    succeeded,
    tiny_experiment,
    tiny_pairs_experiment,
)
from tests.cli.small_vocabulary import flag_of_small_vocabulary
from tests.cli.test_export import export
from tests.extras.huggingface.imported_models import (
    LOGITS_TOLERANCE,
    Imported,
    imported,
    logits_and_loss,
    logits_of_transformers,
)
from tests.layouts import assert_close


def test_safetensors_hold_all_variables_by_path(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    export(language_model_run, tmp_path / "all", "safetensors")
    export(language_model_run, tmp_path / "parts", "safetensors", "--max_shard_size=20KB")
    values = values_of_run(RunDirectory(language_model_run)).values
    for name in ("all", "parts"):
        folder = Folder(tmp_path / name)
        assert (len(folder.headers) == 1) == (name == "all")
        assert folder.tensors.keys() == values.keys()
        for path, value in values.items():
            np.testing.assert_array_equal(folder.tensors[path].read(), value)
        assert folder.metadata["global_step"] == "2"


def test_a_model_that_transformers_lacks_is_refused_in_one_line(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    target = tmp_path / "target"
    flags = [f"--model_dir={language_model_run}", f"--to={target}", "--format=huggingface"]
    assert "transformers has no such model" in error_line(mtfrun_here("export", *flags))
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_lora_is_not_exported_for_peft(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = [f"--model_dir={language_model_run}", f"--to={tmp_path / 'peft'}", "--format=peft"]
    assert "name the run of an adapter with --adapter" in error_line(mtfrun_here("export", *flags))


def test_factors_of_mup_that_transformers_lacks_are_refused_in_one_line(
    run_copy: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with (run_copy / "config.gin").open("a") as file:
        file.write("\nBASE_SIZES = {'d_kv': 2}\n")
    flags = [f"--model_dir={run_copy}", f"--to={tmp_path}/target", "--format=huggingface"]
    line = error_line(mtfrun_here("export", *flags))
    assert "base_sizes: d_kv differs from its base size" in line and "--format=safetensors" in line
    assert not (tmp_path / "target").exists()


def test_other_data_make_no_other_model() -> None:
    data = (
        *("huggingface.HuggingFaceVocabulary", "huggingface.HuggingFaceDataset"),
        *("text_tasks.LabelVocabulary", "text_tasks.TextPairs", "text_tasks.WordLabels"),
        *("text_tasks.TextClassificationData", "text_tasks.TokenClassificationData"),
        *("data.Task", "vision.RandAugment", "huggingface.FirstIds"),
    )
    models = [ModelDescription({f"a/{x}": {"b": i} for x in data}, {}, {}) for i in range(2)]
    models[0].check_computes_as(models[1], "the imported model")
    for name in ("transformer.FeedForward", "text_tasks.SpanLabeler", "huggingface.LatentHeads"):
        first, second = (ModelDescription({name: {"b": i}}, {}, {}) for i in range(2))
        with pytest.raises(ConversionError, match=rf"{name}\.b=0 there is 1"):
            first.check_computes_as(second, "the imported model")


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_t5_that_was_trained_here_is_loaded_by_transformers(
    version: str, tmp_path: pathlib.Path
) -> None:
    flags = tiny_pairs_experiment(tmp_path)
    flags[1] = f"--gin_file=models/t5.{version}.tiny.gin"
    run, target = tmp_path / "run", tmp_path / "target"
    assert succeeded(mtfrun_here("train", *flags, f"--model_dir={run}")) == []
    export(run, target, "huggingface")
    assert json.loads((target / "config.json").read_text())["vocab_size"] == 384
    inputs, targets = np.array([[50, 60, 70, 1]]), np.array([[80, 90, 1]])
    model = Imported("", target, run)
    logits, _ = logits_and_loss(model.opened(), {"inputs": inputs, "targets": targets})
    theirs = {"input_ids": inputs, "labels": targets}
    expected = logits_of_transformers(target, theirs, "AutoModelForSeq2SeqLM")
    assert_close(logits, expected, LOGITS_TOLERANCE)


def _trained(directory: pathlib.Path, model: str, *flags: str) -> pathlib.Path:
    """Trains a model of a shipped file for two steps on pairs, or on their texts."""
    is_answer = model.startswith("t5")
    experiment = (tiny_pairs_experiment if is_answer else tiny_experiment)(directory)
    experiment[1] = f"--gin_file=models/{model}.gin"
    run = directory / "run"
    succeeded(mtfrun_here("train", *experiment, *flags, f"--model_dir={run}"))
    return run


@pytest.mark.slow
def test_a_t5_is_exported_with_its_sentencepiece_tokenizer(tmp_path: pathlib.Path) -> None:
    vocabulary = [flag_of_small_vocabulary(tmp_path), "--gin_file=data/sentencepiece.gin"]
    run = _trained(tmp_path, "t5.1.1.tiny", *vocabulary)
    model = (tmp_path / "small.model").read_bytes()
    (tmp_path / "small.model").unlink()
    export(run, tmp_path / "target", "huggingface")
    files = {path.name: path.read_bytes() for path in (tmp_path / "target").iterdir()}
    assert files["spiece.model"] == model
    assert {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"} < set(files)
    ids = json.loads(files["config.json"])
    assert (ids["pad_token_id"], ids["eos_token_id"], ids["bos_token_id"]) == (0, 1, None)
    export(run, tmp_path / "weights", "huggingface", "--weights_only")
    names = {path.name for path in (tmp_path / "weights").iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    again = tmp_path / "again"
    process = mtfrun_here("import", f"--from={tmp_path / 'target'}", f"--model_dir={again}")
    assert process.returncode == 0 and b"note" not in process.stderr, process.stderr.decode()
    flags = ["--prompt=one of many", "--decode_length=6"]
    (ours,) = succeeded(mtfrun_here("decode", f"--model_dir={run}", *flags))
    (theirs,) = succeeded(mtfrun_here("decode", f"--model_dir={again}", *flags))
    assert theirs["outputs"][0]["text"] == ours["outputs"][0]["text"]


@pytest.mark.slow
def test_a_vocabulary_that_transformers_lacks_is_refused_without_weights_only(
    tmp_path: pathlib.Path,
) -> None:
    own = ["--gin.VOCABULARY=@data.IdVocabulary()", "--gin.data.IdVocabulary.size=300"]
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{i} 5 6\t7 {i}" for i in range(3, 203)))
    pairs = [f"--gin.TSV_FILES='{tmp_path / 'pairs.tsv'}'", "--gin.Decoding.decode_length=2"]
    run = _trained(tmp_path, "t5.1.0.tiny", *own, *pairs)
    command = ["export", f"--model_dir={run}", f"--to={tmp_path / 'target'}"]
    command.append("--format=huggingface")
    line = error_line(mtfrun_here(*command))
    assert "no tokenizer like IdVocabulary" in line and "--weights_only" in line
    assert not (tmp_path / "target").exists()
    process = mtfrun_here(*command, "--weights_only")
    assert process.returncode == 0, process.stderr.decode()


@pytest.mark.slow
def test_a_model_whose_logits_have_no_factors_of_mup_is_exported(tmp_path: pathlib.Path) -> None:
    # The number of heads grows, not their size, and the softmax is not tied.
    sizes = "--gin.BASE_SIZES={'d_model': 8, 'd_ff': 16, 'heads': 2}"
    run, again = _trained(tmp_path, "llama", sizes), tmp_path / "again"
    export(run, tmp_path / "target", "huggingface")
    process = mtfrun_here("import", f"--from={tmp_path / 'target'}", f"--model_dir={again}")
    assert process.returncode == 0, process.stderr.decode()
    assert "BASE_SIZES" not in (again / "config.gin").read_text()
    ids = {"inputs": np.array([[50, 60, 70, 80, 90]])}
    expected = mtfrun.load(str(run)).logits(ids)
    assert_close(mtfrun.load(str(again)).logits(ids), expected, LOGITS_TOLERANCE)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
@pytest.mark.slow
def test_a_language_model_that_was_trained_here_is_loaded_by_transformers(
    model: str, tmp_path: pathlib.Path
) -> None:
    derived = ["--gin.NUM_MEMORY_HEADS=2", "--gin.D_KV=@transformer.head_size()"]
    heads = derived if model == "llama" else []
    run, target = _trained(tmp_path, model, *heads), tmp_path / "target"
    export(run, target, "huggingface")
    ids = np.array([[50, 60, 70, 80, 90]])
    logits = mtfrun.load(str(run)).logits({"inputs": ids})
    expected = logits_of_transformers(target, {"input_ids": ids}, "AutoModelForCausalLM")
    assert_close(logits, expected, LOGITS_TOLERANCE)


@pytest.mark.slow
def test_an_imported_model_is_exported_with_the_tokenizer_that_it_was_trained_with(
    tmp_path: pathlib.Path,
) -> None:
    model_dir = imported("t5_v1_1", tmp_path).run
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{i} is\tone of {i}" for i in range(150)))
    flags = [
        *(f"--gin_file={model_dir / 'config.gin'}", "--gin_file=data/tsv_pairs.gin"),
        *("--gin_file=data/sentencepiece.gin", flag_of_small_vocabulary(tmp_path)),
        f"--gin.TSV_FILES='{tmp_path / 'pairs.tsv'}'",
        *("--gin.SentencePieceVocabulary.size=160", "--gin.INPUTS_LENGTH=16"),
        *("--gin.TARGETS_LENGTH=16", "--gin.BATCH_SIZE=8", "--gin.TRAIN_STEPS=1"),
    ]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={tmp_path / 'run'}"))
    # An export needs neither the imported run nor the file.
    model_dir.rename(tmp_path / "elsewhere")
    (tmp_path / "small.model").rename(tmp_path / "other.model")
    export(tmp_path / "run", tmp_path / "target", "huggingface")
    model = (tmp_path / "target/spiece.model").read_bytes()
    assert model == (tmp_path / "other.model").read_bytes()


@pytest.mark.slow
def test_a_fine_tuned_model_is_exported_only_if_it_computes_as_the_imported_one(
    tmp_path: pathlib.Path,
) -> None:
    source = imported("t5_v1_1", tmp_path)
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{i} 5 6\t7 {i}" for i in range(3, 153)))
    data = [
        f"--gin_file={source.run / 'config.gin'}",
        "--gin_file=data/tsv_pairs.gin",
        f"--gin.TSV_FILES='{tmp_path / 'pairs.tsv'}'",
        *("--gin.INPUTS_LENGTH=16", "--gin.TARGETS_LENGTH=16", "--gin.BATCH_SIZE=8"),
        *("--gin.TRAIN_STEPS=2", "--gin.LEARNING_RATE=0.1"),
    ]
    run, other = tmp_path / "run", tmp_path / "other"
    assert succeeded(mtfrun_here("train", *data, f"--model_dir={run}")) == []
    export(run, tmp_path / "target", "huggingface")
    ours, theirs = Folder(tmp_path / "target").tensors, Folder(source.folder).tensors
    assert {name: (t.dtype, t.shape) for name, t in ours.items()} == {
        name: (t.dtype, t.shape) for name, t in theirs.items()
    }
    assert any(np.any(ours[name].read() != theirs[name].read()) for name in theirs)
    change = "--gin.GatedFeedForward.activation=@mtf.relu"
    assert succeeded(mtfrun_here("train", *data, change, f"--model_dir={other}")) == []
    flags = [f"--model_dir={other}", f"--to={tmp_path / 'refused'}", "--format=huggingface"]
    line = error_line(mtfrun_here("export", *flags))
    assert "GatedFeedForward.activation='@mtf.relu'" in line
