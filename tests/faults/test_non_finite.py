"""Numbers that are not finite on one device of a mesh end training, and none is saved."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from mtfrun import mtf, optim
from mtfrun.models import NonFiniteError
from mtfrun.models.model import Loss
from mtfrun.rundir import RunDirectory
from mtfrun.training import CheckpointOptions, TrainOptions
from tests.training import toy_run
from tests.training.toy_model import Bigram

MESHES = ["data:2,model:2", pytest.param("data:1,model:1", marks=pytest.mark.slow)]
OPTIONS = TrainOptions(4, 2, log_every_steps=1, checkpoints=CheckpointOptions(every_steps=1))


class Spiking(Bigram):
    """A model with a term that one element of a variable decides, the last one along d_ff."""

    function: Callable[[mtf.Tensor], mtf.Tensor]
    value: float

    def __init__(self, mesh: mtf.Mesh):
        super().__init__(mesh)
        self.spike = mtf.Variable(mesh, [self.d_ff], mtf.initializers.Constant(0.0))

    def loss(
        self, features: Mapping[str, mtf.Tensor], *, training: bool, key: mtf.Key | None = None
    ) -> Loss:
        finite = super().loss(features, training=training, key=key)
        offset = np.ones(self.d_ff.size, np.float32)
        offset[-1] = self.value
        x = self.spike + mtf.import_tf_tensor(self.spike.mesh, offset, [self.d_ff])
        return finite._replace(total=finite.total + mtf.reduce_sum(type(self).function(x)))


@pytest.mark.parametrize("mesh_shape", MESHES)
@pytest.mark.parametrize(
    ("function", "value", "named"),
    [
        pytest.param(
            *(mtf.log, -1.0, "the loss of step 1"), id="NaN in the loss", marks=pytest.mark.slow
        ),
        # 0, with an infinite derivative.
        pytest.param(mtf.sqrt, 0.0, "the gradient of model/spike of step 1", id="one gradient"),
    ],
)
def test_one_element_on_one_device_is_found(
    mesh_shape: str,
    function: Callable[[mtf.Tensor], mtf.Tensor],
    value: float,
    named: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Spiking, "function", staticmethod(function), raising=False)
    monkeypatch.setattr(Spiking, "value", value, raising=False)
    with pytest.raises(NonFiniteError, match=f"{named} is not finite"):
        toy_run.toy_train(str(tmp_path), OPTIONS, mesh_shape=mesh_shape, model=Spiking)
    assert RunDirectory(tmp_path).checkpoints().steps() == []
    assert (tmp_path / "nan_step_1.json").is_file()


@pytest.mark.slow
def test_weights_that_are_not_finite_after_an_update_are_not_saved(tmp_path: pathlib.Path) -> None:
    huge = optim.Sgd(learning_rate=1e39)
    with pytest.raises(NonFiniteError, match=r"variable model/\w+ of step 1 is not finite"):
        toy_run.toy_train(str(tmp_path), OPTIONS, optimizer=huge, mesh_shape="data:2,model:2")
    assert RunDirectory(tmp_path).checkpoints().steps() == []
