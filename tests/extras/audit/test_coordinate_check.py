"""The coordinate check: with muP no layer's output drifts with the width, without it some do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import pytest
import tensorflow as tf

from mtfrun import mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras.audit.verify.width_check import Drift, Size, drifts, growing_dims, output_sizes
from mtfrun.training import TrainState
from tests.cli.command import error_line, mtfrun_here
from tests.layouts import ONE_DEVICE
from tests.models import models_of_widths
from tests.models.models_of_widths import ModelOfWidth

STEPS = 4
# The largest exponent of a power law over all widths.
TOLERANCE = 0.15
WIDTHS, FILTERS = (64, 128, 256, 512, 1024), (8, 16, 32, 64)
OPTIMIZERS: Mapping[str, Callable[[], optim.Optimizer]] = {
    "Adafactor": lambda: optim.Adafactor(0.1, min_dim_size_to_factor=None),
    "Adam": lambda: optim.Adam(0.01),
    "Momentum": lambda: optim.Momentum(0.1),
}
MESH = mtf.Mesh(ONE_DEVICE)


@functools.cache
def _drifts(
    model: ModelOfWidth, optimizer: str, widths: tuple[int, ...], *, with_mup: bool
) -> dict[str, Drift]:
    sizes: dict[float, dict[str, Size]] = {}
    growing = growing_dims([_shapes(model(MESH, width)) for width in widths[:2]])
    for width in widths:
        of_width = model(MESH, width)
        if with_mup:
            optim.set_base_sizes(of_width, {name: x[0] for name, x in growing.items()})
        features = models_of_widths.features(of_width)
        state = TrainState(of_width, OPTIMIZERS[optimizer](), MESH)
        sizes[width] = output_sizes(state, features, STEPS)
        _free(state)
    return {drift.path: drift for drift in drifts(sizes)}


def _free(state: TrainState) -> None:
    """Frees the memory of a state's variables.

    TensorFlow registers custom gradients for ever, and through them the traced step and what it has
    captured: 8 GB over all cases.
    """
    for variable in state.named_variables().values():
        empty = tf.zeros([], variable.dtype)
        tf.raw_ops.AssignVariableOp(resource=variable.variable.handle, value=empty)


def _shapes(model: mtf.Module) -> list[mtf.Shape]:
    return [variable.shape for variable in model.named_variables().values()]


KINDS: Sequence[tuple[ModelOfWidth, str, tuple[int, ...]]] = [
    (models_of_widths.language_model, "Adam", WIDTHS),
    (models_of_widths.language_model_of_large_heads, "Momentum", WIDTHS),
    (models_of_widths.factorised_embedding, "Adam", WIDTHS),
    (models_of_widths.mixture, "Adafactor", WIDTHS[:3]),
    (models_of_widths.own_layer, "Adafactor", WIDTHS[:4]),
    (models_of_widths.resnet_20, "Momentum", FILTERS[:3]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "optimizer", "widths"), KINDS)
def test_no_output_drifts_with_mup(
    model: ModelOfWidth, optimizer: str, widths: tuple[int, ...]
) -> None:
    plain = _drifts(model, optimizer, widths, with_mup=False)
    assert any(drift.exceeds(2 * TOLERANCE) for drift in plain.values())
    for drift in _drifts(model, optimizer, widths, with_mup=True).values():
        assert not drift.exceeds(TOLERANCE), drift


def test_a_slope_is_the_exponent_of_a_power_law() -> None:
    sizes = {
        float(w): {"x": Size(3.0 * w**0.5, 2.0 / w), "y": Size(1.0, 0.0)} for w in (64, 128, 256)
    }
    x, y = drifts(sizes)
    assert (x.slope, x.slope_of_change) == pytest.approx((0.5, -1.0))
    assert (y.slope, y.slope_of_change) == pytest.approx((0.0, 0.0))
    assert x.exceeds(0.4) and not y.exceeds(0.1)


def test_dimensions_grow_that_differ_between_models() -> None:
    shapes = ["vocab:9;d_model:{0}", "_d_model:{0};d_model:{0}", "filters:{1}", "_filters:{0};a:1"]
    models = [[mtf.convert_to_shape(x.format(w, 2 * w)) for x in shapes] for w in (8, 16)]
    assert growing_dims(models) == {"d_model": [8, 16], "filters": [8, 16]}
    with pytest.raises(InputError, match="the models are not of 3 widths"):
        growing_dims([*models, models[0]])


MODEL = [
    *("--gin_file=runs/quickstart.gin", "--gin.NUM_LAYERS=1", "--gin.SEQUENCE_LENGTH=16"),
    *("--gin.D_MODEL=64,256", "--gin.D_FF=128,512", "--gin.NUM_HEADS=2,8"),
    *("--gin.WARMUP_STEPS=1", "--gin.LEARNING_RATE=0.2"),
]


@pytest.mark.slow
def test_a_drift_without_base_sizes_is_marked_and_is_the_exit_code() -> None:
    process = mtfrun_here("audit", "widths", *MODEL)
    assert process.returncode == 5, process.stderr.decode()
    lines = process.stdout.decode().splitlines()
    assert lines[:3] == ["d_model: 64, 256", "heads: 2, 8", "d_ff: 128, 512"]
    name = "decoder_stack/blocks/0/gated_feed_forward "
    (line,) = [line for line in lines if line.startswith(name)]
    assert line.endswith("*")


@pytest.mark.slow
def test_a_dimension_that_grows_and_is_not_named_is_printed() -> None:
    process = mtfrun_here(
        "audit", "widths", *MODEL, "--gin.BASE_SIZES={'d_model': 64, 'd_ff': 128}"
    )
    assert "not in BASE_SIZES: heads" in process.stdout.decode().splitlines()


def test_flags_that_cannot_be_used_are_one_line() -> None:
    for flags, problem in (
        (["--gin.D_MODEL=64"], "there is one width only: give flags several values"),
        (["--gin.D_MODEL=64,128,256", "--gin.D_FF=1,2"], "D_FF has 2 values, and another flag 3:"),
    ):
        quick = "--gin_file=runs/quickstart.gin"
        assert problem in error_line(mtfrun_here("audit", "widths", quick, *flags))
