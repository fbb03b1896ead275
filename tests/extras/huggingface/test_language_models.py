"""Decoder-only models: their tensors, other types and forms of them, padding, fine-tuning."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.configuration import config
from mtfrun.experiment import Logits
from mtfrun.experiment.runs.opening import ROOTS, build
from mtfrun.extras.huggingface.families.registry import family_of
from mtfrun.extras.huggingface.importer import read_folder
from mtfrun.extras.huggingface.safetensors_file import write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.extras.huggingface.tables.settings import Settings
from tests.cli.command import mtfrun_here, succeeded
from tests.extras.huggingface.imported_models import (
    BFLOAT16_TOLERANCE,
    FOLDERS,
    LOGITS_TOLERANCE,
    Imported,
    assert_same_tensors,
    cast_folder,
    exported,
    imported_folder,
    logits_of_transformers,
)
from tests.layouts import assert_close

NAMES = ["gpt2", "gpt_neo", "llama", "mistral", "mixtral", "qwen2"]
# Smaller ones, of families that have the form of one of these.
SMALL = [
    *("glm", "glm4", "olmo", "olmo3", "starcoder2", "cohere2", "qwen3", "phi3", "olmo2", "smollm3"),
    *("gemma", "gemma2", "gemma3_text", "granite"),
    *("stablelm", "cohere", "phi", "gptj", "gpt_neox", "falcon", "opt", "bloom"),
    *("qwen2_moe", "qwen3_moe", "olmoe", "deepseek_v3"),
]
MESH = "data:2,model:2"


@pytest.mark.parametrize("name", SMALL)
def test_tensors_become_variables_and_these_the_same_tensors(
    name: str, tmp_path: pathlib.Path
) -> None:
    folder = Folder(FOLDERS / name)
    settings = Settings(folder.config, name, frozenset(folder.tensors))
    table = family_of(settings).table()
    (tmp_path / "config.gin").write_text(read_folder(folder.path).config(tmp_path))
    config.parse([str(tmp_path / "config.gin")], [], roots=ROOTS)
    with mtf.planned_meshes():
        model = build()[0].model
    variables = model.named_variables()
    shapes = {path: tuple(v.shape.to_integer_list) for path, v in variables.items()}
    values = table.to_ours(lambda tensor: folder.tensors[tensor].read(), shapes, name)
    assert values.keys() == variables.keys()
    for tensor, value in table.to_theirs(values).items():
        assert value.tobytes() == folder.tensors[tensor].read().tobytes(), tensor


@pytest.mark.slow
def test_bfloat16_activations_give_logits_near_those_of_float32(
    import_once: Callable[[str], Imported],
) -> None:
    model = import_once("llama")
    built = model.opened(ACTIVATION_DTYPE="bfloat16")
    logits = Logits(built.experiment)({"inputs": model.case["inputs"]})
    expected = model.case["logits"]
    error = np.linalg.norm(logits - expected) / np.linalg.norm(expected)
    assert 0.0 < error < BFLOAT16_TOLERANCE


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_tensors_of_two_bytes_are_imported_and_given_back(
    dtype: str, tmp_path: pathlib.Path
) -> None:
    cast_folder("llama", tmp_path / "folder", dtype)
    model = imported_folder("llama", tmp_path / "folder")
    logits = Logits(model.opened().experiment)({"inputs": model.case["inputs"]})
    assert_close(logits, model.case["logits"], BFLOAT16_TOLERANCE)
    assert_same_tensors(exported(model), model.folder)


@pytest.mark.slow
def test_experts_in_one_tensor_are_imported_and_given_back(tmp_path: pathlib.Path) -> None:
    source = Folder(FOLDERS / "mixtral")
    tensors = {name: stored.read() for name, stored in source.tensors.items()}
    for layer in range(source.config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        ours, theirs = f"{prefix}.block_sparse_moe", f"{prefix}.mlp"
        tensors[f"{theirs}.gate.weight"] = tensors.pop(f"{ours}.gate.weight")
        w1, w2, w3 = (
            np.stack([tensors.pop(f"{ours}.experts.{i}.{name}.weight") for i in range(4)])
            for name in ("w1", "w2", "w3")
        )
        tensors[f"{theirs}.experts.gate_up_proj"] = np.concatenate([w1, w3], axis=1)
        tensors[f"{theirs}.experts.down_proj"] = w2
    folder = tmp_path / "folder"
    folder.mkdir()
    write_file(folder / "model.safetensors", tensors, source.metadata)
    (folder / "config.json").write_text(json.dumps(source.config))
    model = imported_folder("mixtral", folder)
    logits = Logits(model.opened().experiment)({"inputs": model.case["inputs"]})
    assert_close(logits, model.case["logits"], LOGITS_TOLERANCE)
    assert_same_tensors(exported(model), folder)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "prefix"), [("bloom", "transformer."), ("opt", "model.")])
def test_a_folder_of_the_model_without_its_softmax_is_imported_and_given_back(
    name: str, prefix: str, tmp_path: pathlib.Path
) -> None:
    """The larger models of OPT, and BLOOM, were published so."""
    source, folder = Folder(FOLDERS / name), tmp_path / "folder"
    tensors = {x.removeprefix(prefix): stored.read() for x, stored in source.tensors.items()}
    folder.mkdir()
    write_file(folder / "model.safetensors", tensors, source.metadata)
    (folder / "config.json").write_text(json.dumps(source.config))
    model = imported_folder(name, folder)
    logits = Logits(model.opened().experiment)({"inputs": model.case["inputs"]})
    assert_close(logits, model.case["logits"], LOGITS_TOLERANCE)
    assert_same_tensors(exported(model), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_padding_before_a_text_changes_nothing(
    name: str, import_once: Callable[[str], Imported]
) -> None:
    model = import_once(name)
    ids, expected = model.case["inputs"], model.case["logits"]
    rows, length = ids.shape
    features = {
        "inputs": np.pad(ids, [(0, 0), (3, 0)]),
        "targets_segmentation": np.tile((np.arange(length + 3) >= 3).astype(np.int32), [rows, 1]),
        "targets_position": np.tile(np.maximum(np.arange(length + 3) - 3, 0), [rows, 1]),
    }
    assert_close(Logits(model.opened().experiment)(features)[:, 3:], expected, LOGITS_TOLERANCE)


@pytest.mark.slow
def test_fine_tuning_on_a_mesh_is_that_on_one_device(
    import_once: Callable[[str], Imported], tmp_path: pathlib.Path
) -> None:
    model = import_once("mixtral")
    for number in range(40):
        text = b" ".join(map(_text, (model.case["inputs"] + number) % 80))
        (tmp_path / f"{number}.txt").write_bytes(text)
    process = mtfrun_here(
        "audit",
        "verify",
        f"--gin_file={model.run / 'config.gin'}",
        "--gin_file=data/text_files.gin",
        f"--gin.TEXT_FILES='{tmp_path}/*.txt'",
        *("--gin.SEQUENCE_LENGTH=16", "--gin.BATCH_SIZE=8", "--gin.data.IdVocabulary.end_id=1"),
        *(f"--mesh={MESH}", "--steps=1", "--cpu", "--json"),
    )
    (report,) = succeeded(process)
    assert report["equal"], report


@pytest.mark.slow
def test_transformers_loads_an_exported_folder(import_once: Callable[[str], Imported]) -> None:
    """Without shards every byte is that of the folder that transformers wrote."""
    model = import_once("mixtral")
    target = exported(model, "--max_shard_size=50KB")
    assert_same_tensors(target, model.folder)
    features = {"input_ids": model.case["inputs"]}
    logits = logits_of_transformers(target, features, "AutoModelForCausalLM")
    assert_close(logits, model.case["logits"], LOGITS_TOLERANCE)


def _text(ids: np.ndarray) -> bytes:
    """Returns ids in decimals."""
    return " ".join(map(str, ids)).encode()
