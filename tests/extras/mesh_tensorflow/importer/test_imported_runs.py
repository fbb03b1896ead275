"""Imported runs of Mesh TensorFlow compute what the original computes, and train on as it does.

Every run has checkpoints before and after three steps, with the optimizer's slots.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import pytest

from mtfrun import mtf
from tests.extras.mesh_tensorflow.importer.imported_runs import (
    ORIGINALS,
    evaluation_of,
    import_run,
    losses_of_steps,
    restore,
    result_of,
)
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close

# Between the original's losses and ours.
LOSS_TOLERANCE = 1e-4
STEPS = 3
RUNS = ["bi_factored", "bi_gated", "bi_relu_tied", "bi_moe_switch", "lm"]


def _mesh(name: str, several: bool) -> dict[str, str]:
    if not several:
        return {}
    # A batch of the mixture is one group of tokens, which cannot be split.
    rows = "experts:batch" if name == "bi_moe_switch" else "batch:batch"
    layout = f"{rows};d_ff:model;heads:model;vocab:model"
    return {"MESH_SHAPE": "batch:2,model:2", "LAYOUT": layout}


CASES = [
    *(pytest.param(name, False, id=name) for name in RUNS if name != "bi_moe_switch"),
    pytest.param("bi_moe_switch", True, id="bi_moe_switch-2x2"),
]


@pytest.mark.parametrize(("name", "several"), CASES)
def test_a_run_goes_on_from_any_step(name: str, several: bool, tmp_path: pathlib.Path) -> None:
    result = result_of(name)
    mesh = _mesh(name, several)
    from_0 = restore(import_run(ORIGINALS / name / "model.ckpt-0.index", tmp_path / "0"), **mesh)
    losses = losses_of_steps(from_0, name, 0, STEPS)
    np.testing.assert_allclose(losses, result["train_losses"], rtol=0, atol=LOSS_TOLERANCE)

    # Without a step in its name the newest checkpoint, of step 3.
    from_3 = restore(import_run(ORIGINALS / name, tmp_path / "3"), **mesh)
    assert from_3.state.finished_steps == STEPS
    values = from_3.state.named_variables()
    for path, variable in from_0.state.named_variables().items():
        assert_close(mtf.to_numpy(variable), mtf.to_numpy(values[path]), FLOAT32_MODEL_TOLERANCE)

    expected = result["perplexity_eval"]
    measured = evaluation_of(from_3, name, batches=2)
    assert measured["objective"] == pytest.approx(expected["loss"], abs=LOSS_TOLERANCE)
    assert measured["loss"] == pytest.approx(-expected["neg_log_perplexity"], abs=LOSS_TOLERANCE)
    assert measured["accuracy"] == pytest.approx(expected["token_accuracy"], abs=LOSS_TOLERANCE)

    np.testing.assert_allclose(
        losses_of_steps(from_3, name, STEPS, 2),
        losses_of_steps(from_0, name, STEPS, 2),
        rtol=0,
        atol=LOSS_TOLERANCE,
    )


def test_the_record_accounts_for_every_binding(tmp_path: pathlib.Path) -> None:
    source = ORIGINALS / "bi_moe_switch"
    run = import_run(source, tmp_path / "run")
    record = json.loads((pathlib.Path(run.path) / "import.json").read_text())
    lists = record["bindings"]
    assert set(lists) == {"taken over", "ignored", "not supported"}
    named = [name for bindings in lists.values() for name in bindings]
    lines = (source / "operative_config.gin").read_text().splitlines()
    bound = [line.split(" = ")[0] for line in lines if " = " in line and line[0] not in "#i"]
    short = {name.rpartition("learning_rate_schedules.")[2] for name in bound}
    assert len(named) == len(set(named)) == len(bound)
    assert {name.partition("= ")[0].strip() for name in named} == short
    assert lists["not supported"] == {}
    assert "encoder/MoE1D.num_experts" in lists["taken over"]
    assert "no gate" in lists["ignored"]["encoder/MoE1D.ntlb_top_k"]
