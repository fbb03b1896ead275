"""A mixture without a capacity equals a plain loop over tokens, whatever the balance and layout."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models import moe
from mtfrun.models.transformer import SequenceCall
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close
from tests.models.moe.mixtures import (
    BATCH,
    D_MODEL,
    LENGTH,
    Result,
    dropless,
    inputs,
    one_level,
    padding_mask,
    run,
)

EXPERTS, HIDDEN = 4, 10
RELU, SWIGLU = (mtf.relu,), (mtf.swish, None)
# How many experts a token chooses, and whether their weights add up to 1.
SWITCH, MIXTRAL = moe.Switch(), moe.TopK(2)
GATES: dict[str, tuple[moe.Gate, int, bool]] = {
    "switch": (SWITCH, 1, False),
    "mixtral": (MIXTRAL, 2, True),
    "3": (moe.TopK(3), 3, True),
}
# The experts that all tokens choose; random for "even".
BALANCES: dict[str, list[int]] = {"even": [], "one": [2], "two": [3, 0], "three": [1, 2, 3]}
ACTIVATIONS = {"relu": RELU, "swiglu": SWIGLU}


def _values(balance: str, activations: str) -> dict[str, np.ndarray]:
    """Returns weights by path; for positive inputs all tokens choose the experts of a balance."""
    rng = np.random.default_rng(8)
    router = rng.normal(size=[D_MODEL.size, EXPERTS])
    for rank, expert in enumerate(BALANCES[balance]):
        router[:, expert] += 6.0 - rank
    values = {"router/kernel": router}
    for i in range(len(ACTIVATIONS[activations])):
        values[f"experts/wi/factors/{i}/kernel"] = rng.normal(size=[EXPERTS, D_MODEL.size, HIDDEN])
    values["experts/wo/kernel"] = rng.normal(size=[EXPERTS, HIDDEN, D_MODEL.size])
    return {path: value.astype(np.float32) for path, value in values.items()}


@functools.cache
def _layer(
    gate: str, balance: str, activations: str, mesh_shape: str, layout: str, rate: float = 0.0
) -> Result:
    """Returns what the layer computes for a padded batch, without the loss of its gate."""
    experts = functools.partial(
        moe.Experts, hidden_size=HIDDEN, activations=ACTIVATIONS[activations], dropout_rate=rate
    )
    make = functools.partial(dropless, gate=GATES[gate][0], experts=experts, loss_coef=0.0)
    values = _values(balance, activations)
    mesh = mtf.Mesh(mesh_shape, layout)
    return run(make, mesh, with_padding=True, values=values, x=np.abs(inputs()))


@functools.cache
def _loop_over_tokens(gate: str, balance: str, activations: str) -> dict[str, np.ndarray]:
    """Returns the output and the gradients by path, computed token by token."""
    _, choices, normalise = GATES[gate]
    sources = {name: tf.constant(v) for name, v in _values(balance, activations).items()}
    sources["x"] = tf.constant(np.abs(inputs()))
    kernels = [name for name in sources if "factors" in name]

    def expert(number: int, token: tf.Tensor) -> tf.Tensor:
        first, *others = (tf.linalg.matvec(sources[n][number], token, True) for n in kernels)
        hidden = first * tf.sigmoid(first) * others[0] if others else tf.nn.relu(first)
        return tf.linalg.matvec(sources["experts/wo/kernel"][number], hidden, True)

    rows = []
    with tf.GradientTape() as tape:
        tape.watch(sources)
        for row, position in itertools.product(range(BATCH.size), range(LENGTH.size)):
            if not padding_mask()[row, position]:
                rows.append(tf.zeros([D_MODEL.size]))
                continue
            token = sources["x"][row, position]
            probabilities = tf.nn.softmax(tf.linalg.matvec(sources["router/kernel"], token, True))
            best = np.argsort(-probabilities.numpy())[:choices]
            weights = [probabilities[number] for number in best]
            total = tf.add_n(weights) if normalise else 1.0
            rows.append(
                sum(w / total * expert(n, token) for n, w in zip(best, weights, strict=True))
            )
        output = tf.reshape(tf.stack(rows), sources["x"].shape)
    # As in `run`.
    of_output = np.random.default_rng(5).normal(size=output.shape).astype(np.float32)
    gradients = tape.gradient(output, sources, output_gradients=tf.constant(of_output))
    return {"output": output.numpy(), **{name: g.numpy() for name, g in gradients.items()}}


CASES = [
    case
    for case in itertools.product(GATES, BALANCES, ACTIVATIONS)
    if "relu" in case or "mixtral" in case
]


@pytest.mark.slow
@pytest.mark.parametrize("gate, balance, activations", CASES)
def test_it_equals_a_loop_over_tokens(gate: str, balance: str, activations: str) -> None:
    expected = _loop_over_tokens(gate, balance, activations)
    result = _layer(gate, balance, activations, ONE_DEVICE, "")
    assert_close(result.output, expected["output"], FLOAT32_MODEL_TOLERANCE)
    for name, gradient in result.gradients.items():
        # The router's gradient is a small difference of large terms where one expert has all.
        scale = max(1.0, float(np.abs(expected[name]).max()))
        assert_close(gradient / scale, expected[name] / scale, FLOAT32_MODEL_TOLERANCE)
    tokens, choices = padding_mask().sum(), GATES[gate][1]
    if favoured := BALANCES[balance]:
        # Of more favoured experts than choices, every token chooses some.
        load = result.metrics["/level_1/load"][favoured]
        assert load.max() == tokens and load.sum() == tokens * min(choices, len(favoured))
    assert result.metrics["/level_1/load"].sum() == tokens * choices
    assert result.metrics["/level_1/dropped"] == 0.0


ON_DATA = "batch:data;experts:data"
WITH_HIDDEN = f"{ON_DATA};expert_hidden:model"
# Every layout with a balanced and with an extreme router.
MESHES = [
    ("switch", "one", "data:2,model:2", WITH_HIDDEN),
    ("mixtral", "three", "data:4,model:2", WITH_HIDDEN),
    *(
        (gate, balance, mesh_shape, layout)
        for layout in (
            ON_DATA,
            "batch:data;experts:model",
            "batch:data;expert_hidden:model",
            "experts:data",
        )
        for gate, balance, mesh_shape in (
            ("mixtral", "even", "data:2,model:2"),
            ("switch", "one", "data:4,model:2"),
        )
    ),
    ("mixtral", "two", "data:1,model:4", "batch:data;experts:model"),
]


@pytest.mark.parametrize("gate, balance, mesh_shape, layout", MESHES)
def test_a_layout_changes_nothing(gate: str, balance: str, mesh_shape: str, layout: str) -> None:
    _assert_same(
        _layer(gate, balance, "relu", mesh_shape, layout, 0.3),
        _layer(gate, balance, "relu", ONE_DEVICE, "", 0.3),
    )


def _assert_same(actual: Result, expected: Result) -> None:
    assert_close(actual.output, expected.output, FLOAT32_MODEL_TOLERANCE)
    for name, gradient in expected.gradients.items():
        scale = max(1.0, float(np.abs(gradient).max()))
        assert_close(actual.gradients[name] / scale, gradient / scale, FLOAT32_MODEL_TOLERANCE)
    for name, total in expected.metrics.items():
        assert_close(actual.metrics[name], total, FLOAT32_MODEL_TOLERANCE)
    assert actual.metrics["/level_1/dropped"] == 0.0


@pytest.mark.slow
def test_frozen_experts_cost_no_gradients_on_a_mesh() -> None:
    def make(mesh: mtf.Mesh, *, is_frozen: bool) -> moe.DroplessMoE:
        layer = dropless(mesh, gate=MIXTRAL)
        for variable in layer.experts.named_variables().values() if is_frozen else []:
            variable.freeze()
        return layer

    frozen, trained = (
        run(functools.partial(make, is_frozen=x), mtf.Mesh("data:2", ON_DATA))
        for x in (True, False)
    )
    assert set(trained.gradients) - set(frozen.gradients) == {
        "experts/wi/factors/0/kernel",
        "experts/wo/kernel",
    }
    _assert_same(trained, frozen)


@pytest.mark.slow
def test_noise_of_the_experts_is_drawn() -> None:
    with_noise = _layer("mixtral", "even", "relu", ONE_DEVICE, "", 0.3).output
    assert np.abs(with_noise - _layer("mixtral", "even", "relu", ONE_DEVICE, "").output).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_it_is_a_mixture_with_room_for_all_and_has_its_variables(mesh_shape: str) -> None:
    mesh = mtf.Mesh(mesh_shape, ON_DATA)
    room = moe.Capacity(training=float(EXPERTS), group_size=BATCH.size * LENGTH.size)
    gate = moe.TopK(2, z_loss=0.01)
    limited = functools.partial(one_level, gate=gate, capacity=room)
    expected = run(limited, mtf.Mesh(ONE_DEVICE))
    actual = run(functools.partial(dropless, gate=gate), mesh)
    _assert_same(actual, expected)
    assert_close(actual.loss, expected.loss, FLOAT32_MODEL_TOLERANCE)
    assert actual.loss > 0.0


@pytest.mark.slow
def test_top_1_without_normalisation_is_switch() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    expected = run(functools.partial(dropless, gate=moe.Switch()), mesh)
    actual = run(functools.partial(dropless, gate=moe.TopK(1, normalise=False)), mesh)
    _assert_same(actual, expected)
    assert_close(actual.loss, expected.loss)


@pytest.mark.slow
def test_noise_of_the_router_is_for_training_only() -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    router = functools.partial(moe.Router, gate=SWITCH, input_noise=moe.Jitter(0.5))
    for training in (False, True):
        plain = run(functools.partial(dropless, gate=SWITCH), mesh, training=training)
        noisy = run(functools.partial(dropless, router=router), mesh, training=training)
        assert np.array_equal(plain.output, noisy.output) != training


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_token_alone_has_the_output_that_it_has_among_others(jit_compile: bool) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    layer = dropless(mesh, gate=MIXTRAL)
    mtf.initialize(layer, seed=1)
    call = SequenceCall()
    compiled = mtf.function(lambda x: layer.step(x, (), call)[0], jit_compile)
    whole = mtf.import_tf_tensor(mesh, inputs(), [BATCH, LENGTH, D_MODEL])
    together = mtf.to_numpy(mtf.function(lambda x: layer(x, call))(whole))
    prefilled = mtf.function(lambda x: layer.prefill(x, (), call)[0], jit_compile)(whole)
    assert_close(mtf.to_numpy(prefilled), together)
    one = mtf.Dimension("batch", 1)
    for row in range(3):
        alone = compiled(mtf.import_tf_tensor(mesh, inputs()[row, :1], [one, D_MODEL]))
        assert_close(mtf.to_numpy(alone), together[row, :1])


def test_more_choices_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"TopK.num_experts is 5: .* at most 4"):
        run(functools.partial(dropless, gate=moe.TopK(5)), mtf.Mesh(ONE_DEVICE))
