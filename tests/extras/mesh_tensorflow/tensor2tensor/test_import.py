"""Runs of Tensor2Tensor compute what the original did: logits, decodes; bad ones are refused."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtfrun.experiment import Logits
from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.tensor2tensor.transformer2 import sources
from mtfrun.rundir.init_checkpoint import find_source, fit_value
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.extras.huggingface.imported_models import LOSS_TOLERANCE, logits_and_loss
from tests.extras.mesh_tensorflow.tensor2tensor.imported_runs import STEP, import_case, write_run
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_models import run

CASES = reference_cases("t2t_transformer_head")
SEVERAL = "data:2,model:2"


@pytest.mark.slow
def test_an_imported_run_is_trained_and_decoded(tmp_path: pathlib.Path) -> None:
    model = import_case(CASES["encdec"], tmp_path)
    rows = [f"3 {i % 9} 5\t6 {i // 9}\n" for i in range(81)]
    (tmp_path / "rows.tsv").write_text("".join(rows))
    tuned = tmp_path / "tuned"
    flags = [
        *("--gin_file=data/tsv_pairs.gin", f"--gin.TSV_FILES='{tmp_path}/rows.tsv'"),
        *("--gin.INPUTS_LENGTH=7", "--gin.TARGETS_LENGTH=7"),
        *("--gin.TRAIN_STEPS=2", "--gin.EVAL_EVERY=None", "--gin.BATCH_SIZE=2"),
    ]
    process = mtfrun_here(
        "train", f"--gin_file={model.run}/config.gin", *flags, f"--model_dir={tuned}"
    )
    assert process.returncode == 0, process.stderr.decode()
    (answer,) = succeeded(mtfrun_here("decode", f"--model_dir={model.run}", "--prompt=3 4 5"))
    assert answer["step"] == STEP


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [ONE_DEVICE, "data:2,model:1"])
def test_a_network_for_images_classifies_as_the_original(mesh: str, tmp_path: pathlib.Path) -> None:
    case = reference_cases("t2t_resnet_2018")["deeper_eval"]
    model = import_case(case, tmp_path, "mtf_resnet")
    logits = Logits(model.opened(mesh).experiment)({"images": case.arrays["in/inputs"]})
    assert_close(logits, case.arrays["out/logits"][:, 0], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize(
    "mesh", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "name", ["colour", *(pytest.param(x, marks=pytest.mark.slow) for x in ("grey", "spatial"))]
)
def test_images_have_the_logits_of_the_original(
    name: str, mesh: str, tmp_path: pathlib.Path
) -> None:
    case = reference_cases("t2t_image_transformer")[name]
    model = import_case(case, tmp_path, "mtf_image_transformer")
    targets = case.arrays["in/targets"].reshape(len(case.arrays["in/targets"]), -1)
    logits, loss = logits_and_loss(model.opened(mesh), {"targets": targets})
    expected = case.arrays["out/logits"].reshape(*targets.shape, -1)
    assert_close(logits, expected, FLOAT32_MODEL_TOLERANCE)
    assert abs(loss - case.arrays["out/loss"]) < LOSS_TOLERANCE


@pytest.mark.slow
def test_imported_models_of_images_train_on_a_mesh(tmp_path: pathlib.Path) -> None:
    case = reference_cases("t2t_image_transformer")["grey"]
    model = import_case(case, tmp_path, "mtf_image_transformer")
    for name in ("even", "odd"):
        (tmp_path / "images" / name).mkdir(parents=True)
    rows, cols, _ = case.arrays["in/targets"].shape[1:]
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, [rows, cols], np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / ("even", "odd")[i % 2] / f"{i}.png")
    process = mtfrun_here(
        *(
            "audit",
            "verify",
            f"--gin_file={model.run}/config.gin",
            "--gin_file=data/image_folders.gin",
        ),
        *(f"--gin.IMAGES_DIR='{tmp_path}/images'", f"--gin.IMAGE_SIZE={rows}"),
        *(f"--gin.RESIZE={rows}", "--gin.CROP=None", "--gin.data.ImageFolders.channels=1"),
        *("--cpu", "--mesh=data:2,model:2", "--steps=1", "--json"),
    )
    (report,) = succeeded(process)
    assert report["equal"], report


TRANSFORMERS = reference_cases("t2t_transformer2")
BI, UNI = "mtf_bitransformer", "mtf_unitransformer"


def _kind(case: ReferenceCase) -> str:
    return BI if "encoder_layers" in case.hparams else UNI


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [ONE_DEVICE, SEVERAL])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_gradients_add_over_the_layers_of_a_class(
    name: str, mesh: str, tmp_path: pathlib.Path
) -> None:
    is_mixture = name == "mixtures"  # its tokens are one group; the case has no gradients
    mesh = "data:1,model:2" if is_mixture and mesh == SEVERAL else mesh
    case = TRANSFORMERS[name]
    experiment = import_case(case, tmp_path, _kind(case)).opened(mesh).experiment
    logits, training, gradients, _ = run(
        experiment.model, experiment.mesh, case.with_role("in"), with_gradients=not is_mixture
    )
    assert_close(logits, case.arrays["out/logits"], FLOAT32_MODEL_TOLERANCE)
    if is_mixture:
        return
    # Padding included.
    positions = logits.shape[0] * logits.shape[1]
    assert_close(training.total / positions, case.arrays["out/loss"], FLOAT32_MODEL_TOLERANCE)
    variables = experiment.model.named_variables()
    # A layer of each class, and two norms, of every stack.
    assert len(variables) == len(case.with_role("w"))
    for path, gradient in gradients.items():
        places = sources(Settings(case.hparams), path, list(variables))
        match = find_source(places, list(case.with_role("grad")))
        assert match is not None, path
        expected = fit_value(case.arrays[f"grad/{match[0]}"], match[1], variables[path].shape)
        assert isinstance(expected, np.ndarray), expected
        assert_close(gradient / positions, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_an_imported_model_trains_on_a_mesh_and_searches(tmp_path: pathlib.Path) -> None:
    model = import_case(TRANSFORMERS["bitransformer"], tmp_path, BI)
    rows = [f"3 {i % 9} 5\t6 {i // 9}\n" for i in range(81)]
    (tmp_path / "rows.tsv").write_text("".join(rows))
    process = mtfrun_here(
        *("audit", "verify", f"--gin_file={model.run}/config.gin", "--gin_file=data/tsv_pairs.gin"),
        *(f"--gin.TSV_FILES='{tmp_path}/rows.tsv'", "--gin.BATCH_SIZE=4"),
        *("--gin.INPUTS_LENGTH=12", "--gin.TARGETS_LENGTH=12"),
        *("--gin.DROPOUT_RATE=0.1", "--cpu", f"--mesh={SEVERAL}", "--steps=1", "--json"),
    )
    (report,) = succeeded(process)
    assert report["equal"], report
    # With its four beams.
    (answer,) = succeeded(mtfrun_here("decode", f"--model_dir={model.run}", "--prompt=3 4 5"))
    assert answer["step"] == STEP


def _refused(tmp_path: pathlib.Path) -> str:
    """Returns the line about a run in "original" that is not imported."""
    run_directory = tmp_path / "run"
    flags = [f"--from={tmp_path / 'original'}", f"--model_dir={run_directory}"]
    line = error_line(mtfrun_here("import", *flags))
    assert not run_directory.exists()
    return line


FIRST, RESNET = "mtf_transformer", "mtf_resnet"


@pytest.mark.parametrize(
    ("model", "name", "changes", "message"),
    [
        (FIRST, "lm", {"decoder_type": "denoising"}, "decoder_type"),
        (FIRST, "lm", {"decoder_layers": ["att", "moe"]}, "must be a list of att, enc_att"),
        (FIRST, "lm", {"learning_rate_schedule": "legacy"}, "supported: constant, linear_warmup"),
        (FIRST, "lm", {"optimizer": "adam"}, "supported: 'Adafactor', 'SGD'"),
        (FIRST, "lm", {"d_model": "8"}, "d_model"),
        (FIRST, "lm", {"d_model": 16}, "is [16, 8]"),
        (RESNET, "deeper_eval", {"rows_size": 40}, "rows_size=40 and the columns must make blocks"),
        (BI, "bitransformer", {"shared_embedding": False}, "shared_embedding=False is not supp"),
        (BI, "bitransformer", {"encoder_layers": ["local_self_att"]}, "sees one position less"),
        (BI, "bitransformer", {"decoder_layers": ["conv"]}, "must be a list of self_att, local_se"),
        (UNI, "unitransformer", {"layers": ["enc_att"]}, "must be a list of self_att, local_self"),
        (UNI, "unitransformer", {"autoregressive": False}, "autoregressive=False is not supported"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    model: str, name: str, changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    case = (CASES | TRANSFORMERS | reference_cases("t2t_resnet_2018"))[name]
    write_run(case, tmp_path / "original", model, **changes)
    assert message in _refused(tmp_path)


def test_layers_with_names_are_not_of_these_models(tmp_path: pathlib.Path) -> None:
    case = TRANSFORMERS["unitransformer"]
    arrays = {key.replace("//", "/layer_000/"): x for key, x in case.arrays.items()}
    write_run(dataclasses.replace(case, arrays=arrays), tmp_path / "original", UNI)
    assert "the checkpoint has no transformer//layer_norm/scale" in _refused(tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("hparams.json", "{", "hparams.json is not JSON"),
        ("hparams.json", "[]", "must be an object"),
        ("flags.txt", "--model=transformer", "the model transformer of flags.txt is not supported"),
        ("model.ckpt-5.index", None, "has no checkpoint model.ckpt-*"),
    ],
)
def test_broken_runs_are_refused(
    file: str, text: str | None, message: str, tmp_path: pathlib.Path
) -> None:
    write_run(CASES["lm"], tmp_path / "original")
    path = tmp_path / "original" / file
    path.unlink() if text is None else path.write_text(text)
    assert message in _refused(tmp_path)
