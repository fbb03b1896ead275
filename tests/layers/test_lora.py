"""LoRA: the numbers of W + alpha / rank * A * B and of its gradients, in all layouts."""

from __future__ import annotations

import functools
import re
import string
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.models import Model, moe
from mtfrun.models.transformer import AttentionHeads, DecoderOnly, Stack, TokenEmbedding
from mtfrun.training import TrainState, train_steps_function
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close, meshes
from tests.models.small_model import LAYOUT, on_mesh, packed_rows, small_model

LEARNING_RATE = 0.5
LORA = layers.LoRA(rank=3, alpha=6.0, variables=".*")
Values = dict[str, np.ndarray]


def _state(
    mesh_shape: str = ONE_DEVICE,
    adapter: layers.LoRA | None = LORA,
    rules: str = "",
    num_layers: int = 1,
    **options: Any,
) -> TrainState:
    """Returns a state whose A and B have values, and so do their products."""
    mesh = mtf.Mesh(mesh_shape, f"{LAYOUT};{rules}" if rules else LAYOUT)
    model = small_model(mesh, tied_softmax=False, num_layers=num_layers, **options)
    if adapter is not None:
        model.add_adapters([adapter])
    state = TrainState(model, optim.Momentum(LEARNING_RATE), mesh, seed=3)
    state.initialize()
    _randomise(model)
    return state


def _randomise(root: mtf.Module) -> None:
    """Gives every B values."""
    rng = np.random.default_rng(5)
    for path, variable in root.named_variables().items():
        if path.endswith("/lora_b"):
            value = 0.1 * rng.normal(size=variable.shape.to_integer_list)
            _assign(variable, value.astype(np.float32))


def _assign(variable: mtf.Variable, value: np.ndarray) -> None:
    mtf.assign(variable, mtf.import_tf_tensor(variable.mesh, value, variable.shape))


def _train(state: TrainState, steps: int = 2, *, with_gradients: bool = False) -> Any:
    """Returns the record of the steps."""
    dim = mtf.Dimension("steps", steps)
    features = {
        name: mtf.broadcast(x, [dim, *x.shape])
        for name, x in on_mesh(state.mesh, packed_rows()).items()
    }
    run = train_steps_function(state, with_gradients=with_gradients)
    return mtf.to_numpy(run(features, mtf.constant(state.mesh, steps, dtype=tf.int32)))


def _logits(model: Model) -> np.ndarray:
    mesh = next(iter(model.named_variables().values())).mesh
    logits: np.ndarray = mtf.to_numpy(
        mtf.function(lambda: model.logits(on_mesh(mesh, packed_rows())))()
    )
    return logits


def _product(x: np.ndarray, y: np.ndarray, dims: list[mtf.Shape], result: mtf.Shape) -> np.ndarray:
    letters = dict(
        zip({d for shape in (*dims, result) for d in shape}, string.ascii_letters, strict=False)
    )
    x_term, y_term, term = ("".join(letters[d] for d in s) for s in (*dims, result))
    return np.einsum(f"{x_term},{y_term}->{term}", x, y)


def _merge_by_hand(model: Model, scale: float) -> Values:
    """Returns the values of the base variables with all products added, by numpy."""
    values = {path: mtf.to_numpy(v.read_alone()) for path, v in model.named_variables().items()}
    for path, kernel, addend in layers.low_rank_addends(model):
        a, b = values[f"{path}/lora_a"], values[f"{path}/lora_b"]
        product = _product(a, b, [addend.down.shape, addend.up.shape], kernel.shape)
        values[path] = values[path] + np.float32(scale) * product
    return {path: values[path] for path in model.base_variables()}


def _plain(values: Values, **options: Any) -> TrainState:
    state = _state(adapter=None, **options)
    for path, variable in state.model.named_variables().items():
        _assign(variable, values[path])
    return state


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, *meshes()])
def test_logits_are_those_of_the_sum_and_of_merged_kernels(mesh_shape: str) -> None:
    model = _state(mesh_shape).model
    expected = _logits(_plain(_merge_by_hand(model, LORA.alpha / LORA.rank)).model)
    assert_close(_logits(model), expected)
    layers.merge_low_rank(model)
    assert_close(_logits(model), expected)
    assert not any(True for _ in layers.low_rank_addends(model))


def test_a_step_is_the_update_written_by_hand() -> None:
    state, scale = _state(), LORA.alpha / LORA.rank
    plain = _plain(_merge_by_hand(state.model, scale))
    of_sums = _train(plain, 1, with_gradients=True).gradients
    expected = {}
    for path, kernel, addend in layers.low_rank_addends(state.model):
        a, b = (mtf.to_numpy(x.read_alone()) for x in (addend.down, addend.up))
        gradient = of_sums[path][0]
        shapes = {"a": addend.down.shape, "b": addend.up.shape, "w": kernel.shape}
        of_a = _product(gradient, b, [shapes["w"], shapes["b"]], shapes["a"])
        of_b = _product(gradient, a, [shapes["w"], shapes["a"]], shapes["b"])
        expected[f"{path}/lora_a"] = a - LEARNING_RATE * scale * of_a
        expected[f"{path}/lora_b"] = b - LEARNING_RATE * scale * of_b
    before = mtf.to_numpy(state.model.base_variables()["embedding/table"])
    _train(state, 1)
    for path, value in mtf.to_numpy(state.model.adapter_variables()).items():
        assert_close(value, expected[path], FLOAT32_MODEL_TOLERANCE)
    assert_close(mtf.to_numpy(state.model.base_variables()["embedding/table"]), before, 0.0)


def test_only_the_factors_are_trained_saved_and_have_slots() -> None:
    state = _state()
    factors = set(state.model.adapter_variables())
    assert all(path.endswith(("/lora_a", "/lora_b")) for path in factors)
    assert set(state.trainable) == factors
    slots = {f"optimizer/{path}/velocity" for path in factors}
    assert set(state.storage()) == {*(f"model/{path}" for path in factors), *slots, "step"}


# Dropout draws by path and element: in loops, on meshes and when it is computed again.
WITH_DROPOUT = layers.LoRA(rank=3, alpha=6.0, variables="decoder_stack", dropout_rate=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh_shape", "rules", "options"),
    [
        ("data:2,model:2", "slots:data", {}),
        ("data:2,model:2", "weights:data", {"rematerialise": True}),
        (ONE_DEVICE, "", {"scan_blocks": 1, "num_layers": 2}),
        (ONE_DEVICE, "", {"rematerialise": True}),
        ("data:2,model:2", "weights:data", {"scan_blocks": 1, "num_layers": 2}),
        *((shape.values[0], "", {}) for shape in meshes()),
    ],
)
def test_no_layout_and_no_way_to_run_blocks_changes_the_training(
    mesh_shape: str, rules: str, options: dict[str, Any]
) -> None:
    expected, actual = (
        _state(adapter=WITH_DROPOUT, num_layers=options.get("num_layers", 1)),
        _state(mesh_shape, WITH_DROPOUT, rules, **options),
    )
    losses = [_train(state).metrics["loss"].total for state in (expected, actual)]
    assert_close(losses[1], losses[0], FLOAT32_MODEL_TOLERANCE)
    values = mtf.to_numpy(actual.model.adapter_variables())
    for path, value in mtf.to_numpy(expected.model.adapter_variables()).items():
        assert_close(values[path], value, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_dropout_is_of_the_second_product_and_of_training_alone() -> None:
    with_dropout, without = (
        _state(adapter=WITH_DROPOUT),
        _state(adapter=layers.LoRA(rank=3, alpha=6.0, variables="decoder_stack")),
    )
    assert_close(_logits(with_dropout.model), _logits(without.model))
    losses = [_train(state, 1).metrics["loss"].total[0] for state in (with_dropout, without)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_grouped_heads_and_experts_have_thin_factors() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, "")
    d_model = mtf.Dimension("d_model", 8)
    heads = AttentionHeads(num_heads=4, num_memory_heads=2, d_kv=4)
    attention = layers.MultiHeadAttention(mesh, d_model, heads=heads)
    experts = layers.Dense(
        mesh, [d_model], [mtf.Dimension("d_ff", 6)], expert_dims=[mtf.Dimension("experts", 3)]
    )
    model = mtf.Module()
    model.parts = [attention, experts]
    mtf.assign_paths(model)
    layers.LoRA(rank=2, variables="query|output|kernel").attach(model)
    shapes = {p: v.shape.to_string for p, v in model.named_variables().items()}
    assert shapes["parts/0/query/lora_a"] == "d_model:8;lora_rank:2"
    assert shapes["parts/0/query/lora_b"] == "lora_rank:2;heads:2;query_heads:2;d_kv:4"
    assert shapes["parts/0/output/lora_a"] == "heads:2;query_heads:2;d_kv:4;lora_rank:2"
    assert shapes["parts/1/kernel/lora_b"] == "lora_rank:2;experts:3;d_ff:6"
    assert "parts/0/key/lora_a" not in shapes


@pytest.mark.parametrize(
    ("shared_kv", "adapted"), [(False, ["query", "value"]), (True, ["key_value", "query"])]
)
def test_the_expression_of_the_paper_finds_shared_keys_and_values(
    shared_kv: bool, adapted: list[str]
) -> None:
    documented = re.search(r'r"(\S+)" as in', str(layers.LoRA.__doc__))
    assert documented is not None
    mesh = mtf.Mesh(ONE_DEVICE, "")
    heads = AttentionHeads(num_heads=4, d_kv=4, shared_kv=shared_kv)
    model = mtf.Module()
    model.attention = layers.MultiHeadAttention(mesh, mtf.Dimension("d_model", 8), heads=heads)
    mtf.assign_paths(model)
    layers.LoRA(rank=2, variables=documented[1]).attach(model)
    paths = [path for path, _, _ in layers.low_rank_addends(model)]
    assert sorted(paths) == [f"attention/{name}" for name in adapted]


MIXTURES: dict[str, Any] = {
    "capacity": functools.partial(moe.MoE1D, capacity=moe.Capacity(group_size=12)),
    "dropless": moe.DroplessMoE,
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
@pytest.mark.parametrize("mixture", list(MIXTURES))
def test_experts_and_routers_compute_as_merged_kernels(mixture: str, mesh_shape: str) -> None:
    experts = functools.partial(moe.Experts, hidden_size=8)
    stack = functools.partial(
        Stack,
        num_layers=1,
        layers=[functools.partial(MIXTURES[mixture], num_experts=4, experts=experts)],
    )
    mesh = mtf.Mesh(mesh_shape, "batch:data;experts:model")
    model = DecoderOnly(mesh, 16, embedding=TokenEmbedding(d_model=16), stack=stack)
    model.add_adapters([LORA])
    mtf.initialize(model, 0)
    _randomise(model)
    expected = _logits(model)
    layers.merge_low_rank(model)
    assert_close(_logits(model), expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_a_convolution_has_the_whole_sum() -> None:
    mesh = mtf.Mesh(ONE_DEVICE, "")
    dims = mtf.convert_to_shape("batch:2;rows:5;cols:5;channels:3").dims
    layer = layers.Conv2D(mesh, dims[3], mtf.Dimension("filters", 4))
    mtf.assign_paths(layer)
    LORA.attach(layer)
    mtf.initialize(layer, 0)
    _randomise(layer)
    images = np.random.default_rng(0).normal(size=[2, 5, 5, 3]).astype(np.float32)
    x = mtf.import_tf_tensor(mesh, images, dims)
    expected = mtf.to_numpy(layer(x, layers.Call()))
    layers.merge_low_rank(layer)
    assert_close(mtf.to_numpy(layer(x, layers.Call())), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, r"LoRA.rank is 0: it must be an integer of at least 1"),
        ({"alpha": 0.0}, "LoRA.alpha is 0.0: it must be more than 0"),
        ({"dropout_rate": 1.0}, "LoRA.dropout_rate is 1.0"),
        ({"variables": "("}, r"LoRA.variables='\(' is not a regular expression"),
        ({"variables": "/querry$"}, r"none of the \d+ paths of kernels, did you mean 'query'\?"),
        ({"variables": "norm/scale"}, "none of the .* paths of kernels.* there are .*attention"),
    ],
)
def test_bad_settings_are_one_line(fields: dict[str, Any], message: str) -> None:
    mesh = mtf.Mesh(ONE_DEVICE, LAYOUT)
    with pytest.raises(InputError, match=message) as error:
        small_model(mesh).add_adapters([layers.LoRA(**fields)])
    assert "\n" not in str(error.value)
