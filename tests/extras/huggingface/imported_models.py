"""Imported models in tests: their logits and losses, beside those that transformers has stored."""

from __future__ import annotations

import ast
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from mtfrun import mtf
from mtfrun.configuration.arguments import literal_bindings
from mtfrun.experiment.runs.opening import (
    RunObjects,
    Settings,
    build_run,
    find_trained_run,
    restore_model,
)
from mtfrun.extras.huggingface.safetensors_file import write_file
from mtfrun.extras.huggingface.tables.folder import Folder
from tests.cli.command import mtfrun_here
from tests.layouts import ONE_DEVICE
from tests.oracle.packed import hugging_face_folders

FOLDERS = hugging_face_folders()

# Relative to the largest logit, and absolute: what the issue asks for.
LOGITS_TOLERANCE, LOSS_TOLERANCE = 1e-4, 1e-5
BFLOAT16_TOLERANCE = 0.02
SCORE_TOLERANCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Imported:
    """An imported folder.

    Attributes:
      name: of the folder below `FOLDERS`.
      folder: the folder that was imported.
      run: the directory that was made of it.
    """

    name: str
    folder: pathlib.Path
    run: pathlib.Path

    @property
    def case(self) -> Mapping[str, np.ndarray]:
        """What transformers has computed."""
        with np.load(FOLDERS / self.name / "case.npz") as arrays:
            return dict(arrays)

    def opened(self, mesh: str = ONE_DEVICE, **bindings: object) -> RunObjects:
        """Returns the model on a mesh, with its values."""
        run = find_trained_run(str(self.run))
        settings = Settings(bindings=literal_bindings({"MESH_SHAPE": mesh, **bindings}))
        built = build_run(run, settings)
        restore_model(built, run, None)
        return built


def imported(name: str, directory: pathlib.Path) -> Imported:
    """Imports one of the stored folders into a directory for tests."""
    folder = directory / name
    shutil.copytree(FOLDERS / name, folder)
    return imported_folder(name, folder)


def imported_folder(name: str, folder: pathlib.Path) -> Imported:
    """Imports a folder; `name` is that of the stored folder that it was made of."""
    run = folder.with_name(f"{folder.name}_run")
    process = mtfrun_here("import", f"--from={folder}", f"--model_dir={run}")
    assert process.returncode == 0, process.stderr.decode()
    return Imported(name, folder, run)


def exported(model: Imported, *flags: str) -> pathlib.Path:
    """Exports a run as a folder of Hugging Face."""
    target = pathlib.Path(tempfile.mkdtemp(dir=model.run.parent))
    arguments = [f"--model_dir={model.run}", f"--to={target}", "--format=huggingface", *flags]
    process = mtfrun_here("export", *arguments)
    assert process.returncode == 0, process.stderr.decode()
    return target


TRANSFORMERS = pathlib.Path(__file__).with_name("transformers_process.py")


def logits_of_transformers(
    folder: pathlib.Path,
    features: Mapping[str, np.ndarray],
    model_class: str,
    adapter: pathlib.Path | None = None,
) -> np.ndarray:
    """Returns what transformers computes with a folder, and a LoRA, in a process of its own.

    Args:
      folder: has config.json and the weights, which must be all that the model needs.
      features: arguments of the model by name.
      model_class: "AutoModelForSeq2SeqLM".
    """
    inputs, outputs = folder.with_suffix(".features.npz"), folder.with_suffix(".logits.npy")
    arrays: dict[str, Any] = dict(features)
    np.savez(inputs, **arrays)
    adapters = [] if adapter is None else [adapter]
    run_program(TRANSFORMERS, "logits", folder, model_class, inputs, outputs, *adapters)
    logits: np.ndarray = np.load(outputs)
    return logits


def assert_same_folder(target: pathlib.Path, folder: pathlib.Path) -> None:
    """Raises unless an exported folder has the same files with the same bytes."""
    names = {path.name for path in folder.iterdir() if path.name != "case.npz"}
    assert {path.name for path in target.iterdir()} == names
    for name in names:
        assert (target / name).read_bytes() == (folder / name).read_bytes(), name


def assert_same_tensors(target: pathlib.Path, folder: pathlib.Path) -> None:
    """Raises unless two folders have the same tensors: names, types and bits."""
    ours, theirs = Folder(target).tensors, Folder(folder).tensors
    assert sorted(ours) == sorted(theirs)
    for name, stored in theirs.items():
        assert ours[name].dtype == stored.dtype, name
        assert ours[name].shape == stored.shape, name
        assert ours[name].read().tobytes() == stored.read().tobytes(), name


def cast_folder(name: str, folder: pathlib.Path, dtype: str) -> None:
    """Writes a stored folder with its tensors in "bfloat16" or "float16", in one file."""
    source = Folder(FOLDERS / name)
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    folder.mkdir()
    tensors = {key: stored.read().astype(numpy_dtype) for key, stored in source.tensors.items()}
    write_file(folder / "model.safetensors", tensors, source.metadata)
    (folder / "config.json").write_text(json.dumps({**source.config, "dtype": dtype}))


def pairs_of(case: Mapping[str, np.ndarray], padding: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs and targets as our models read them, with padding where no loss is."""
    is_input, is_target = case["attention_mask"] > 0, case["labels"] >= 0
    rows = ((case["inputs"], is_input), (case["labels"], is_target))
    inputs, targets = (np.where(is_token, ids, padding) for ids, is_token in rows)
    return inputs, targets


def on_mesh(mesh: mtf.Mesh, ids: np.ndarray) -> mtf.Tensor:
    """Returns ids [batch, length] on a mesh, with a row of zeros if their number is odd."""
    rows = np.pad(ids, [(0, len(ids) % 2), (0, 0)]).astype(np.int32)
    dims = [mtf.Dimension(*item) for item in zip(("batch", "length"), rows.shape, strict=True)]
    return mtf.import_tf_tensor(mesh, rows, dims)


def logits_and_loss(
    built: RunObjects, features: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, float]:
    """Returns the logits of all rows and the mean loss of an evaluation."""
    model, mesh = built.experiment.model, built.experiment.mesh

    def both(x: Mapping[str, mtf.Tensor]) -> tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]:
        loss = model.loss(x, training=False).metrics["loss"]
        return model.logits(x), loss.total, loss.weight

    arrays = {name: on_mesh(mesh, ids) for name, ids in features.items()}
    logits, total, weight = mtf.to_numpy(mtf.function(both)(arrays))
    rows = len(next(iter(features.values())))
    return logits[:rows], float(total / weight)


def sum_of_log_probabilities(
    logits_of: Callable[[np.ndarray], np.ndarray], targets: np.ndarray
) -> np.ndarray:
    """Returns the log-probability of every row of targets, 0 for none."""
    logits = logits_of(targets).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.sum(np.exp(logits), -1, keepdims=True))
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.asarray(np.sum(chosen * (targets > 0), -1))


def run_program(program: pathlib.Path, *arguments: str | pathlib.Path) -> None:
    """Runs a program that uses transformers, which the tests themselves do not import."""
    command = [sys.executable, str(program), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, timeout=300)
    assert process.returncode == 0, process.stderr.decode()


def models_of(program: pathlib.Path) -> list[str]:
    """Returns the names in `MODELS` of a program, which is not imported: it needs torch."""
    tree = ast.parse(program.read_text())
    (models,) = (
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "MODELS"
    )
    assert isinstance(models, ast.Dict)
    return [ast.literal_eval(key) for key in models.keys if key is not None]
