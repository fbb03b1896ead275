"""Runs of Tensor2Tensor in tests: stored cases as their files, and imported."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.cli.command import mtfrun_here
from tests.extras.huggingface.imported_models import Imported
from tests.oracle.reference_cases import ReferenceCase
from tests.oracle.reference_models import save_weights

STEP = 5


def write_run(
    case: ReferenceCase, directory: pathlib.Path, model: str = "mtf_transformer", **changes: Any
) -> None:
    directory.mkdir()
    hparams = {**case.hparams, "train_steps": 100, **changes}
    (directory / "hparams.json").write_text(json.dumps(hparams, sort_keys=True))
    (directory / "flags.txt").write_text(f"--problem=translate_ende\n--model={model}\n")
    weights: Mapping[str, Any] = {**case.with_role("w"), "global_step": np.int64(STEP)}
    save_weights(weights, directory / f"model.ckpt-{STEP}")


def import_case(
    case: ReferenceCase, tmp_path: pathlib.Path, model: str = "mtf_transformer"
) -> Imported:
    write_run(case, tmp_path / "original", model)
    run = tmp_path / "run"
    process = mtfrun_here("import", f"--from={tmp_path / 'original'}", f"--model_dir={run}")
    assert process.returncode == 0, process.stderr.decode()
    note = {
        "mtf_transformer": b"the vocabulary of the problem translate_ende is not read",
        "mtf_unitransformer": b"layers of one class share their variables",
        "mtf_bitransformer": b"layers of one class share their variables",
        "mtf_image_transformer": b"here dropout draws for each position",
        "mtf_resnet": b"pixels become (pixel - 127.5) / 127.5",
    }
    assert note[model] in process.stderr
    return Imported("t2t", tmp_path / "original", run)
