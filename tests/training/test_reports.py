"""`Print` and `scalar_summary` of a model in training steps."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import mtf
from mtfrun.models.model import Loss
from mtfrun.training import CheckpointOptions, TrainOptions
from tests.layouts import ONE_DEVICE
from tests.training.toy_model import Bigram
from tests.training.toy_run import curve, toy_train


class _Reporting(Bigram):
    """Prints and summarises in a function that the backward pass computes again."""

    def loss(self, *args: object, **kwargs: object) -> Loss:
        loss = super().loss(*args, **kwargs)  # type: ignore[arg-type]

        def reported(total: mtf.Tensor) -> mtf.Tensor:
            mtf.scalar_summary("loss", total / loss.weight)
            mtf.scalar_summary("gate/one", mtf.ones(total.mesh, []))
            return mtf.Print(total, [loss.weight], "weight")

        return loss._replace(total=mtf.recompute_grad(reported, [loss.total]))


@pytest.mark.parametrize(
    "mesh_shape", [ONE_DEVICE, pytest.param("data:2,model:2", marks=pytest.mark.slow)]
)
def test_every_microbatch_is_printed_with_its_step_and_curves_are_means(
    mesh_shape: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = TrainOptions(
        4,
        iterations_per_loop=2,
        log_every_steps=2,
        microbatches=2,
        checkpoints=CheckpointOptions(every_steps=None),
    )
    toy_train(str(tmp_path), options, mesh_shape=mesh_shape, model=_Reporting)
    lines = [line for line in capsys.readouterr().err.splitlines() if "weight" in line]
    expected = "weight [Tensor('', float32)][24.0]"
    assert lines == [f"step {step}: {expected}" for step in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert curve(str(tmp_path), "gate/one") == {2: 1.0, 4: 1.0}
    losses = curve(str(tmp_path))
    assert curve(str(tmp_path), "summary/loss") == pytest.approx(losses)
