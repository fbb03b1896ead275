"""LoRA in PEFT's folders, both ways, for the models of Hugging Face."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.experiment.runs.opening import RunObjects
from mtfrun.extras.huggingface.export import origin_of_run
from mtfrun.extras.huggingface.peft import CONFIG, TENSORS, export_peft
from mtfrun.extras.huggingface.safetensors_file import write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, mtfrun_here
from tests.extras.huggingface.imported_models import (
    LOGITS_TOLERANCE,
    TRANSFORMERS,
    Imported,
    imported,
    imported_folder,
    logits_and_loss,
    logits_of_transformers,
    pairs_of,
    run_program,
)
from tests.layouts import assert_close

# Modules of transformers, of which some have several kernels here, or heads in groups.
MODULES = {
    "gpt2": ["c_attn", "c_fc"],
    "llama": ["q_proj", "o_proj", "down_proj"],
    "t5_v1_1": ["q", "o", "wi_1", "lm_head"],
}
CLASSES = {"t5_v1_1": "AutoModelForSeq2SeqLM"}
FORMS = ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "t5_v1_1"))]
RANK, ALPHA = 4, 6.0


def _features(model: Imported) -> dict[str, np.ndarray]:
    case = model.case
    if "labels" in case:
        return dict(zip(("inputs", "targets"), pairs_of(case), strict=True))
    return {"inputs": case["inputs"], "targets": case["inputs"]}


def _logits(model: Imported, built: RunObjects) -> np.ndarray:
    return logits_and_loss(built, _features(model))[0]


def _write_lora(model: Imported, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Writes a LoRA as PEFT does, and returns the weights of its modules with it."""
    rng = np.random.default_rng(1)
    merged: dict[str, np.ndarray] = {}
    factors: dict[str, np.ndarray] = {}
    is_gpt2 = model.name == "gpt2"
    for name, stored in Folder(model.folder).tensors.items():
        module = name.removesuffix(".weight")
        if not name.endswith(".weight") or module.rpartition(".")[2] not in MODULES[model.name]:
            continue
        weight = stored.read()
        outputs, inputs = weight.shape[::-1] if is_gpt2 else weight.shape
        a, b = (
            rng.normal(size=s).astype(np.float32) / 8 for s in ([RANK, inputs], [outputs, RANK])
        )
        change = (ALPHA / RANK * b @ a).astype(np.float32)
        merged[name] = weight + (change.T if is_gpt2 else change)
        prefix = f"base_model.model.{module}"
        factors |= {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    folder.mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / CONFIG).write_text(json.dumps({**config, "target_modules": MODULES[model.name]}))
    write_file(folder / TENSORS, factors, {"format": "pt"})
    return merged


def _import_lora(model: Imported, folder: pathlib.Path) -> Imported:
    run = folder.with_name(f"{folder.name}_run")
    flags = [f"--from={folder}", f"--base={model.run}", f"--model_dir={run}"]
    process = mtfrun_here("import", *flags)
    assert process.returncode == 0, process.stderr.decode()
    return Imported(model.name, folder, run)


@pytest.mark.parametrize("name", FORMS)
def test_a_lora_comes_in_merges_and_goes_out_as_it_was(name: str, tmp_path: pathlib.Path) -> None:
    base = imported(name, tmp_path)
    merged_tensors = _write_lora(base, tmp_path / "lora")
    adapter = _import_lora(base, tmp_path / "lora")
    source = Folder(base.folder)
    merged = {n: merged_tensors.get(n, stored.read()) for n, stored in source.tensors.items()}
    target = tmp_path / "merged"
    target.mkdir()
    write_file(target / "model.safetensors", merged, source.metadata)
    (target / "config.json").write_bytes(source.bytes_of("config.json"))
    by_hand = imported_folder(name, target)
    assert_close(_logits(base, adapter.opened()), _logits(base, by_hand.opened()))
    # Both ways.
    flags = [f"--model_dir={adapter.run}", f"--to={tmp_path / 'out'}", "--format=peft"]
    assert mtfrun_here("export", *flags).returncode == 0
    theirs, ours = (Folder(tmp_path / f).tensors_of(TENSORS) for f in ("lora", "out"))
    assert set(ours) == set(theirs)
    for key, stored in theirs.items():
        assert_close(ours[key].read(), stored.read(), 0.0)
    config = Folder(tmp_path / "out").json_of(CONFIG)
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)
    assert config["target_modules"] == sorted(MODULES[name])
    if name == "gpt2":
        flags = [f"--model_dir={adapter.run}", f"--to={tmp_path / 'hf'}", "--format=huggingface"]
        assert mtfrun_here("export", *flags).returncode == 0
        exported = Folder(tmp_path / "hf").tensors
        for key, value in merged_tensors.items():
            assert_close(exported[key].read(), value)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODULES))
def test_kernels_of_one_module_share_the_ranks_of_all(name: str, tmp_path: pathlib.Path) -> None:
    base = imported(name, tmp_path)
    built = base.opened()
    model = built.experiment.model
    model.add_adapters([layers.LoRA(3, 6.0, r"/(query|value|wo/kernel)$", 0.1)])
    mtf.initialize(model, 0)
    rng = np.random.default_rng(2)
    for path, variable in model.adapter_variables().items():
        if path.endswith("lora_b"):
            value = rng.normal(size=variable.shape.to_integer_list).astype(np.float32) / 8
            mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))
    (tmp_path / "lora").mkdir()
    origin = origin_of_run(RunDirectory(str(base.run)), (), weights_only=True)
    export_peft(tmp_path / "lora", model, origin)
    adapter = _import_lora(base, tmp_path / "lora")
    assert_close(_logits(base, adapter.opened()), _logits(base, built))
    config = Folder(tmp_path / "lora").json_of(CONFIG)
    assert config["lora_dropout"] == 0.1
    if name == "gpt2":
        tensors = Folder(tmp_path / "lora").tensors_of(TENSORS)
        assert tensors["base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"].shape[0] == 6


def test_folders_that_are_no_lora_for_the_model_are_one_line(tmp_path: pathlib.Path) -> None:
    base = imported("gpt2", tmp_path)
    _write_lora(base, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / CONFIG).read_text())
    to = [f"--from={tmp_path / 'lora'}", f"--model_dir={tmp_path / 'new'}"]
    of_base = f"--base={base.run}"
    assert "name the run of its model with --base" in error_line(mtfrun_here("import", *to))
    for changes, message in {
        ("use_dora", True): "use_dora=True is not supported; supported: False",
        ("peft_type", "IA3"): "peft_type='IA3' is not supported; supported: 'LORA'",
        ("modules_to_save", ("lm_head",)): "modules_to_save=['lm_head'] is not supported",
        ("alpha_pattern", "x"): "alpha_pattern='x' must be numbers by the names of modules",
    }.items():
        changed = {**config, changes[0]: changes[1]}
        (tmp_path / "lora" / CONFIG).write_text(json.dumps(changed))
        assert message in error_line(mtfrun_here("import", *to, of_base))
    (tmp_path / "lora" / CONFIG).write_text(json.dumps(config))
    for name, shape, message in (
        ("transformer.h.0.attn.c_atn", [4, 32], "has no module transformer.h.0.attn.c_atn"),
        ("transformer.h.0.attn.c_attn", [4, 31], "maps 31 to 96, not (32, 96)"),
    ):
        factors = {
            f"base_model.model.{name}.lora_A.weight": np.ones(shape, np.float32),
            f"base_model.model.{name}.lora_B.weight": np.ones([96, 4], np.float32),
        }
        write_file(tmp_path / "lora" / TENSORS, factors, {})
        assert message in error_line(mtfrun_here("import", *to, of_base))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODULES))
def test_peft_loads_what_is_written_and_writes_what_is_read(
    name: str, tmp_path: pathlib.Path
) -> None:
    base = imported(name, tmp_path)
    model_class = CLASSES.get(name, "AutoModelForCausalLM")
    modules = [name for name in MODULES[name] if name != "lm_head"]
    run_program(TRANSFORMERS, "lora", base.folder, model_class, tmp_path / "made", *modules)
    adapter = _import_lora(base, tmp_path / "made")
    flags = [f"--model_dir={adapter.run}", f"--to={tmp_path / 'out'}", "--format=peft"]
    assert mtfrun_here("export", *flags).returncode == 0
    case = base.case
    features: dict[str, Any] = {n: case[n] for n in ("attention_mask", "labels") if n in case}
    features["input_ids"] = case["inputs"]
    logits = [
        logits_of_transformers(base.folder, features, model_class, tmp_path / folder)
        for folder in ("made", "out")
    ]
    assert_close(logits[1], logits[0], 1e-6)
    is_text = case["labels"] > 0 if "labels" in case else np.ones(case["inputs"].shape, bool)
    ours = _logits(base, adapter.opened())[..., : logits[0].shape[-1]]
    assert_close(ours[is_text], logits[0][is_text], LOGITS_TOLERANCE)
