"""Runs of mtf_unitransformer and mtf_bitransformer compute what the original did."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun.extras.huggingface.tables.settings import Settings
from mtfrun.extras.mesh_tensorflow.tensor2tensor.transformer2 import sources
from mtfrun.rundir.init_checkpoint import find_source, fit_value
from tests.cli.command import mtfrun_here, succeeded
from tests.extras.huggingface.imported_models import logits_and_loss
from tests.extras.mesh_tensorflow.tensor2tensor.imported_runs import STEP, import_case, write_run
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_models import run

CASES = reference_cases("t2t_transformer2")
QUICK = "bitransformer"
NAMES = [pytest.param(x, marks=[] if x == QUICK else [pytest.mark.slow]) for x in CASES]
SEVERAL = "data:2,model:2"


def _model(case: ReferenceCase) -> str:
    return "mtf_bitransformer" if "encoder_layers" in case.hparams else "mtf_unitransformer"


@pytest.mark.parametrize("mesh", [ONE_DEVICE, pytest.param(SEVERAL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NAMES)
def test_logits_are_the_originals(name: str, mesh: str, tmp_path: pathlib.Path) -> None:
    if name == "mixtures" and mesh == SEVERAL:
        mesh = "data:1,model:2"  # its tokens are one group
    case = CASES[name]
    built = import_case(case, tmp_path, _model(case)).opened(mesh)
    logits, _ = logits_and_loss(built, case.with_role("in"))
    assert_close(logits, case.arrays["out/logits"], FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [ONE_DEVICE, SEVERAL])
@pytest.mark.parametrize("name", [name for name in CASES if name != "mixtures"])
def test_gradients_add_over_the_layers_of_a_class(
    name: str, mesh: str, tmp_path: pathlib.Path
) -> None:
    case = CASES[name]
    experiment = import_case(case, tmp_path, _model(case)).opened(mesh).experiment
    logits, training, gradients, _ = run(
        experiment.model, experiment.mesh, case.with_role("in"), with_gradients=True
    )
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
    model = import_case(CASES["bitransformer"], tmp_path, "mtf_bitransformer")
    rows = [f"3 {i % 9} 5\t6 {i // 9}\n" for i in range(81)]
    (tmp_path / "rows.tsv").write_text("".join(rows))
    process = mtfrun_here(
        *("audit", "verify", f"--gin_file={model.run}/config.gin", "--gin_file=data/tsv_pairs.gin"),
        *(f"--gin.TSV_FILES='{tmp_path}/rows.tsv'", "--gin.BATCH_SIZE=4"),
        *("--gin.INPUTS_LENGTH=12", "--gin.TARGETS_LENGTH=12"),
        *("--gin.DROPOUT_RATE=0.1", "--cpu", f"--mesh={SEVERAL}", "--steps=2", "--json"),
    )
    (report,) = succeeded(process)
    assert report["equal"], report
    # With its four beams.
    (answer,) = succeeded(mtfrun_here("decode", f"--model_dir={model.run}", "--prompt=3 4 5"))
    assert answer["step"] == STEP


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (QUICK, {"shared_embedding": False}, "shared_embedding=False is not supported"),
        (QUICK, {"encoder_layers": ["local_self_att"]}, "sees one position less before"),
        (QUICK, {"decoder_layers": ["self_att", "conv"]}, "must be a list of self_att, local_self"),
        ("unitransformer", {"layers": ["enc_att"]}, "must be a list of self_att, local_self_att"),
        ("unitransformer", {"autoregressive": False}, "autoregressive=False is not supported"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    name: str, changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    case = CASES[name]
    write_run(case, tmp_path / "original", _model(case), **changes)
    run = tmp_path / "run"
    process = mtfrun_here("import", f"--from={tmp_path / 'original'}", f"--model_dir={run}")
    assert process.returncode == 2
    (line,) = process.stderr.decode().strip().splitlines()
    assert message in line
    assert not run.exists()


def test_layers_with_names_are_not_of_these_models(tmp_path: pathlib.Path) -> None:
    case = CASES["unitransformer"]
    arrays = {key.replace("//", "/layer_000/"): x for key, x in case.arrays.items()}
    named = dataclasses.replace(case, arrays=arrays)
    write_run(named, tmp_path / "original", "mtf_unitransformer")
    process = mtfrun_here(
        "import", f"--from={tmp_path / 'original'}", f"--model_dir={tmp_path / 'run'}"
    )
    assert process.returncode == 2
    (line,) = process.stderr.decode().strip().splitlines()
    assert "the checkpoint has no transformer//layer_norm/scale" in line
