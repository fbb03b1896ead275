"""Variables and modules: paths, initial values, assignment."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.experimental import dtensor

from mtfrun import mtf
from mtfrun.mtf.parameters import initializers
from tests.layouts import LAYOUTS, ONE_DEVICE, assert_close


class Layer(mtf.Module):
    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.kernel = mtf.Variable(mesh, "a:8;b:4", initializers.RandomNormal())
        self.bias = mtf.Variable(mesh, "b:4", trainable=False)


class Model(mtf.Module):
    def __init__(self, mesh: mtf.Mesh):
        super().__init__()
        self.blocks = [Layer(mesh), Layer(mesh)]
        self.heads = {"main": Layer(mesh)}
        self.tied = self.blocks[0]


def _model(mesh_shape: str = LAYOUTS[0], seed: int = 5) -> Model:
    model = Model(mtf.Mesh(mesh_shape, "a:data;b:model"))
    mtf.initialize(model, seed)
    return model


def test_variables_are_named_by_attribute_paths_and_tied_ones_by_the_first() -> None:
    assert list(Model(mtf.Mesh()).named_variables()) == [
        "blocks/0/kernel",
        "blocks/0/bias",
        "blocks/1/kernel",
        "blocks/1/bias",
        "heads/main/kernel",
        "heads/main/bias",
    ]


def test_initialize_gives_modules_and_variables_their_paths() -> None:
    model = _model()
    assert model.path == ""
    assert model.heads["main"].path == "heads/main"
    assert model.blocks[1].kernel.path == "blocks/1/kernel"
    assert list(model.named_modules()) == ["", "blocks/0", "blocks/1", "heads/main"]


def test_paths_can_be_assigned_without_allocating_storage() -> None:
    model = Model(mtf.Mesh())
    mtf.assign_paths(model)
    assert model.blocks[1].path == "blocks/1"
    assert not model.blocks[1].kernel.is_initialized


def test_initial_values_depend_on_seed_and_path_and_not_on_the_layout(mesh_shape: str) -> None:
    expected = {path: mtf.to_numpy(v) for path, v in _model().named_variables().items()}
    for path, variable in _model(mesh_shape).named_variables().items():
        np.testing.assert_array_equal(mtf.to_numpy(variable), expected[path])
    assert (expected["blocks/0/kernel"] != expected["blocks/1/kernel"]).all()
    assert (mtf.to_numpy(_model(seed=6).blocks[0].kernel) != expected["blocks/0/kernel"]).all()


def test_a_second_initialize_keeps_value_and_path() -> None:
    model = _model()
    before = mtf.to_numpy(model.blocks[0].kernel)
    mtf.initialize([model.blocks[0]], seed=99)
    np.testing.assert_array_equal(mtf.to_numpy(model.blocks[0].kernel), before)
    assert model.blocks[0].kernel.path == "blocks/0/kernel"


def test_storage_is_laid_out_by_the_rules() -> None:
    kernel = _model("data:4,model:2").blocks[0].kernel
    assert kernel.variable.layout.sharding_specs == ["data", "model"]
    assert dtensor.unpack(kernel.variable.read_value())[0].shape == (2, 2)


def test_a_variable_without_value_is_an_error_with_the_remedy() -> None:
    variable = mtf.Variable(mtf.Mesh(), "a:8", name="scale")
    with pytest.raises(
        mtf.ShapeError, match=r"^variable scale has no value yet: call mtf.initialize"
    ):
        mtf.relu(variable)
    with pytest.raises(mtf.ShapeError, match=r"^Layer has no path yet: call mtf\.initialize"):
        _ = Layer(mtf.Mesh()).path


def test_an_initializer_of_the_wrong_size_is_an_error() -> None:
    variable = mtf.Variable(mtf.Mesh(), "a:8", lambda _shape, _rng: np.zeros([4]))
    with pytest.raises(
        mtf.ShapeError, match=r"the initializer of w returned \(4,\) for Shape\(a:8\)"
    ):
        variable.initialize(0, "w")


def test_operations_take_variables(mesh_shape: str) -> None:
    model = _model(mesh_shape)
    kernel = model.blocks[0].kernel
    value = mtf.to_numpy(kernel)

    def compute() -> list[mtf.Tensor]:
        return [kernel * 2.0, mtf.reduce_sum(kernel, reduced_dim="a:8"), mtf.read_variable(kernel)]

    double, total, same = mtf.to_numpy(mtf.function(compute)())
    assert_close(double, 2 * value)
    assert_close(total, value.sum(0))
    np.testing.assert_array_equal(same, value)


def test_assignment_takes_dimensions_in_any_order_and_casts(mesh_shape: str) -> None:
    kernel = _model(mesh_shape).blocks[0].kernel
    value = mtf.to_numpy(kernel)
    delta = np.arange(32).reshape(4, 8)

    def step(x: mtf.Tensor) -> mtf.Tensor:
        old = mtf.read_variable(kernel)
        mtf.assign_add(kernel, x)
        return mtf.reduce_sum(old)

    x = mtf.import_tf_tensor(kernel.mesh, delta, "b:4;a:8", dtype=tf.int32)
    assert_close(
        mtf.to_numpy(mtf.function(step)(x)), value.sum(dtype=np.float64).astype(np.float32)
    )
    assert_close(mtf.to_numpy(kernel), value + delta.T)
    mtf.function(lambda x: mtf.assign_sub(kernel, x))(x)
    assert_close(mtf.to_numpy(kernel), value)
    mtf.function(lambda x: mtf.assign(kernel, x))(x)
    assert_close(mtf.to_numpy(kernel), delta.T.astype(np.float32))


def test_assigning_other_dimensions_is_an_error() -> None:
    kernel = _model().blocks[0].kernel
    with pytest.raises(
        mtf.ShapeError, match=r"^variable blocks/0/kernel is Shape\(a:8;b:4\), not Shape\(a:8\)$"
    ):
        mtf.assign(kernel, mtf.zeros(kernel.mesh, "a:8"))


@pytest.mark.parametrize("keys", [{1: "one", "1": "other"}, {"a/b": "one", "a": {"b": "other"}}])
def test_two_variables_with_the_same_path_are_an_error(keys: dict[object, object]) -> None:
    mesh = mtf.Mesh()

    def layers(value: object) -> object:
        return {k: layers(v) for k, v in value.items()} if isinstance(value, dict) else Layer(mesh)

    root = Layer(mesh)
    root.parts = layers(keys)
    with pytest.raises(mtf.ShapeError, match="have the path"):
        mtf.initialize(root)


@pytest.mark.parametrize(
    "shape, merged, sides",
    [
        ("d_model:4;heads:2;d_kv:3", [], ["d_model:4", "heads:2", "d_kv:3"]),
        ("d_model:4;heads:2;d_kv:3", ["d_kv", "heads"], ["d_model:4", "heads:2;d_kv:3"]),
        ("heads:2;d_model:4;d_kv:3", ["heads", "d_kv"], ["heads:2;d_kv:3", "d_model:4"]),
        ("", [], []),
    ],
)
def test_merged_dimensions_are_one_side(shape: str, merged: list[str], sides: list[str]) -> None:
    dims = [mtf.convert_to_shape(shape).get_dim_by_name(name) for name in merged]
    variable = mtf.Variable(mtf.Mesh(ONE_DEVICE), shape, merged_dims=dims)
    assert [side.to_string for side in variable.sides] == sides


def test_merging_a_dimension_of_another_size_is_an_error() -> None:
    with pytest.raises(mtf.ShapeError, match=r"no dimension heads:3 in .*: its 'heads' has size 2"):
        mtf.Variable(
            mtf.Mesh(ONE_DEVICE), "d_model:4;heads:2", merged_dims=[mtf.Dimension("heads", 3)]
        )


SHAPE = mtf.convert_to_shape("d_model:256;d_ff:1024")
NUM = SHAPE.size


def _draw(initializer: mtf.Initializer) -> np.ndarray:
    return np.asarray(initializer(SHAPE, np.random.default_rng(3)), np.float64)


@pytest.mark.parametrize(
    "initializer, mean, stddev",
    [
        (initializers.RandomNormal(0.5, 1.0), 1.0, 0.5),
        (initializers.TruncatedNormal(0.5, 1.0), 1.0, 0.5 * 0.87962566103423978),
        (initializers.RandomUniform(-1.0, 3.0), 1.0, 4.0 / np.sqrt(12.0)),
    ],
)
def test_draws_have_the_mean_and_deviation_of_the_arguments(
    initializer: mtf.Initializer, mean: float, stddev: float
) -> None:
    draws = _draw(initializer)
    assert draws.shape == (256, 1024)
    assert abs(draws.mean() - mean) < 4 * stddev / np.sqrt(NUM)
    assert abs(draws.std() / stddev - 1.0) < 4 / np.sqrt(NUM)


def test_constants_are_constant() -> None:
    assert (_draw(initializers.Zeros()) == 0.0).all()
    assert (_draw(initializers.Ones()) == 1.0).all()
    assert (_draw(initializers.Constant(0.25)) == 0.25).all()


def test_truncated_draws_stay_within_two_deviations_and_uniform_ones_within_bounds() -> None:
    assert np.abs(_draw(initializers.TruncatedNormal(0.5))).max() <= 1.0
    draws = _draw(initializers.RandomUniform(2.0, 3.0))
    assert draws.min() >= 2.0 and draws.max() < 3.0


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("mode, fan", [("fan_in", 256), ("fan_out", 1024), ("fan_avg", 640)])
def test_variance_scaling_gives_scale_over_fan(distribution: str, mode: str, fan: int) -> None:
    scaling = mtf.VarianceScaling(2.0, mode, distribution)
    draws = _draw(scaling(SHAPE.dims[:1], SHAPE.dims[1:]))
    assert abs(draws.var() * fan / 2.0 - 1.0) < 4 * np.sqrt(2.0 / NUM)


def test_variance_scaling_multiplies_the_dimensions_of_a_fan() -> None:
    scaling = mtf.VarianceScaling()
    heads, key = mtf.Dimension("heads", 4), mtf.Dimension("key", 16)
    assert scaling([heads, key], [mtf.Dimension("d", 9)]).stddev() == 0.125
    assert scaling([], [heads]).stddev() == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mode": "fan"}, "^mode is 'fan': it must be 'fan_in' or"),
        ({"distribution": "gauss"}, "^distribution is 'gauss': it must be 'normal' or"),
    ],
)
def test_unknown_modes_are_an_error(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mtf.VarianceScaling(1.0, **arguments)
