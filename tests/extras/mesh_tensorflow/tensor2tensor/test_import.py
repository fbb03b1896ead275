"""Runs of Tensor2Tensor compute what the original did: logits, decodes; bad ones are refused."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mtfrun import mtf
from mtfrun.experiment import Logits
from tests.cli.command import mtfrun_here, succeeded
from tests.extras.huggingface.imported_models import LOSS_TOLERANCE, logits_and_loss
from tests.extras.mesh_tensorflow.tensor2tensor.imported_runs import STEP, import_case, write_run
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import reference_cases
from tests.oracle.reference_models import padded_to

CASES = {
    f"{file}/{name}": case
    for file in ("t2t_transformer_2018", "t2t_transformer_head")
    for name, case in reference_cases(file).items()
    # Rows of these hold several texts.
    if "packed" not in name
}
# A list of layers with all kinds that have cases, and blocks with two vocabularies.
QUICK = ("t2t_transformer_head/lm_local_attention", "t2t_transformer_2018/encdec_unshared_short")
NAMES = [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in CASES]


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_originals(name: str, tmp_path: pathlib.Path) -> None:
    case = CASES[name]
    model = import_case(case, tmp_path)
    for mesh in ("data:1,model:1", "data:1,model:2"):
        built = model.opened(mesh, LAYOUT="d_ff:model")
        features = {
            key: mtf.import_tf_tensor(
                built.experiment.mesh,
                padded_to(x, case.hparams["max_length"]).astype(np.int32),
                f"batch:{len(x)};length:{case.hparams['max_length']}",
            )
            for key, x in case.with_role("in").items()
            if key in ("inputs", "targets")
        }
        logits = mtf.to_numpy(mtf.function(built.experiment.model.logits)(features))
        assert_close(logits, case.arrays["out/logits"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_an_imported_run_is_trained_and_decoded(tmp_path: pathlib.Path) -> None:
    model = import_case(CASES["t2t_transformer_head/encdec"], tmp_path)
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
    images = tmp_path / "images" / "image"
    images.mkdir(parents=True)
    rows, cols, _ = case.arrays["in/targets"].shape[1:]
    for i in range(40):
        pixels = np.random.default_rng(i).integers(0, 256, [rows, cols], np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
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


def test_sizes_of_a_network_that_cannot_be_are_refused(tmp_path: pathlib.Path) -> None:
    case = reference_cases("t2t_resnet_2018")["deeper_eval"]
    write_run(case, tmp_path / "original", "mtf_resnet", rows_size=40)
    flags = [f"--from={tmp_path / 'original'}", f"--model_dir={tmp_path / 'run'}"]
    process = mtfrun_here("import", *flags)
    assert process.returncode == 2
    (line,) = process.stderr.decode().strip().splitlines()
    assert "rows_size=40 and the columns must make blocks of 32 x 96" in line


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_type": "denoising"}, "decoder_type"),
        ({"decoder_layers": ["att", "moe"]}, "must be a list of att, enc_att"),
        ({"learning_rate_schedule": "legacy"}, "supported: constant, linear_warmup"),
        ({"optimizer": "adam"}, "supported: 'Adafactor', 'SGD'"),
        ({"d_model": "8"}, "d_model"),
        ({"d_model": 16}, "is [16, 8]"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    write_run(CASES["t2t_transformer_head/lm"], tmp_path / "original", **changes)
    run = tmp_path / "run"
    process = mtfrun_here("import", f"--from={tmp_path / 'original'}", f"--model_dir={run}")
    assert process.returncode == 2
    (line,) = process.stderr.decode().strip().splitlines()
    assert message in line
    assert not run.exists()


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
    write_run(CASES["t2t_transformer_head/lm"], tmp_path / "original")
    if text is None:
        (tmp_path / "original" / file).unlink()
    else:
        (tmp_path / "original" / file).write_text(text)
    process = mtfrun_here(
        "import", f"--from={tmp_path / 'original'}", f"--model_dir={tmp_path / 'run'}"
    )
    assert process.returncode == 2
    (line,) = process.stderr.decode().strip().splitlines()
    assert message in line
