"""Models with a factorised embedding compute what those with the products of its maps do."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from mtfrun import layers, mtf, optim
from mtfrun.errors import InputError
from mtfrun.extras.distillation.loss import DistillationLoss, Distiller
from mtfrun.models import transformer as t
from mtfrun.models.transformer.tokens import token_softmax
from tests.layouts import FLOAT32_MODEL_TOLERANCE, LAYOUTS, ONE_DEVICE, QUICK_LAYOUTS, assert_close
from tests.models.small_model import (
    LAYOUT,
    VOCABULARY,
    Step,
    assert_same_step,
    logits_of,
    logits_step_by_step,
    packed_rows,
    pairs,
    small_encoder_decoder,
    small_model,
    training_step,
)

D_MODEL, D_EMBEDDING, INPUTS_VOCABULARY = 16, 8, 24
TABLE, IN, OUT = "embedding/table", "embedding/projection/kernel", "softmax/projection/kernel"
INPUTS_TABLE, INPUTS_IN = "inputs_embedding/table", "inputs_embedding/projection/kernel"
# Settings of the embedding; those of the models are in `_model`.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "decoder": {},
    "decoder, separate softmax": {"tied_softmax": False},
    "decoder, factors": {"scaled_softmax": False, "scaled_vectors": True},
    "encoder": {"softmax_bias": True, "logits_cap": 5.0},
    "encoder-decoder": {"vocabulary_divisor": 8, "scaled_vectors": True},
    "encoder-decoder, two embeddings": {"scaled_vectors": True},
}
SPLIT_COLUMNS = "batch:data;d_embedding:model;heads:model;d_ff:model"
SPLIT_WIDTH = "batch:data;d_model:model"
SPLITS = [
    *((mesh_shape, LAYOUT) for mesh_shape in LAYOUTS),
    *(("data:2,model:2", layout) for layout in (SPLIT_COLUMNS, SPLIT_WIDTH)),
]
QUICK_KINDS = ("decoder",)
CASES = [
    pytest.param(
        *(kind, mesh_shape, layout),
        marks=[]
        if kind in QUICK_KINDS and mesh_shape in QUICK_LAYOUTS and layout == LAYOUT
        else [pytest.mark.slow],
    )
    for kind in KINDS
    for mesh_shape, layout in SPLITS
    if kind in QUICK_KINDS or (mesh_shape, layout) in [SPLITS[0], SPLITS[1]]
]


def _embedding(kind: str, **settings: Any) -> t.TokenEmbedding:
    return t.TokenEmbedding(d_model=D_MODEL, max_length=16, **{**KINDS[kind], **settings})


def _model(mesh: mtf.Mesh, kind: str, embedding: t.TokenEmbedding) -> t.TokenModel:
    if kind.startswith("encoder-decoder"):
        size = INPUTS_VOCABULARY if kind.endswith("two embeddings") else None
        return small_encoder_decoder(mesh, embedding=embedding, inputs_vocabulary_size=size)
    if kind == "encoder":
        attention = functools.partial(t.SelfAttention, heads=t.AttentionHeads(4, d_kv=4))
        stack = functools.partial(t.Stack, num_layers=1, layers=[attention])
        head = [functools.partial(t.DenseTransform, activation=mtf.tanh)]
        model = t.EncoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack, head=head)
        mtf.initialize(model, seed=2)
        return model
    return small_model(mesh, num_layers=1, embedding=embedding)


def _features(kind: str) -> dict[str, np.ndarray]:
    if kind.startswith("decoder"):
        return packed_rows()
    rows = pairs()
    return rows if kind != "encoder" else {"inputs": rows["inputs"], "targets": rows["inputs"]}


@functools.cache
def _factorised(
    kind: str, mesh_shape: str = ONE_DEVICE, layout: str = LAYOUT
) -> tuple[Step, dict[str, np.ndarray]]:
    """Returns a step, and the variables before it."""
    mesh = mtf.Mesh(mesh_shape, layout)
    model = _model(mesh, kind, _embedding(kind, d_embedding=D_EMBEDDING))
    values = {path: mtf.to_numpy(v) for path, v in model.named_variables().items()}
    return training_step(model, mesh, _features(kind)), values


def _expected(kind: str) -> Step:
    """Returns the step of a model with the products of tables and maps, and a separate softmax.

    The gradients of the maps follow from those of their products.
    """
    values, settings = _factorised(kind)[1], _embedding(kind, d_embedding=D_EMBEDDING)
    factor = D_EMBEDDING**0.5 if settings.scaled_vectors else 1.0
    scale = D_EMBEDDING**-0.5 if settings.scaled_softmax else 1.0
    plain = {path: value for path, value in values.items() if "projection" not in path}
    tables = {TABLE: IN, **({INPUTS_TABLE: INPUTS_IN} if INPUTS_TABLE in values else {})}
    for table, projection in tables.items():
        plain[table] = factor * values[table] @ values[projection]
    if settings.tied_softmax:
        plain["softmax/kernel"] = scale * values[OUT] @ values[TABLE].T
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, kind, _embedding(kind, tied_softmax=False, scaled_vectors=False))
    variables = model.named_variables()
    assert variables.keys() == plain.keys()
    for path, variable in variables.items():
        mtf.assign(variable, mtf.import_tf_tensor(mesh, plain[path], variable.shape))
    loss, gradients = training_step(model, mesh, _features(kind))
    for table, projection in tables.items():
        of_product = factor * gradients[table]
        gradients[table] = of_product @ values[projection].T
        gradients[projection] = values[table].T @ of_product
    if settings.tied_softmax:
        of_product = scale * gradients.pop("softmax/kernel")
        gradients[OUT] = of_product @ values[TABLE]
        gradients[TABLE] = gradients[TABLE] + of_product.T @ values[OUT]
    return Step(loss, gradients)


@pytest.mark.parametrize("kind, mesh_shape, layout", CASES)
def test_loss_and_gradients_are_those_of_the_products(
    kind: str, mesh_shape: str, layout: str
) -> None:
    assert_same_step(_factorised(kind, mesh_shape, layout)[0], _expected(kind))


@pytest.mark.slow
@pytest.mark.parametrize("mesh_shape", [ONE_DEVICE, "data:2,model:2"])
def test_vectors_are_mapped_before_the_blocks_of_a_loss(
    mesh_shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, widths = _factorised("decoder")[0], []

    def loss_in_blocks(x: mtf.Tensor, *args: Any, **options: Any) -> list[mtf.Tensor]:
        widths.append(x.shape[-1])
        return layers.loss_in_blocks(x, *args, **options)

    monkeypatch.setattr(token_softmax, "BLOCK_LOGITS", 1)
    monkeypatch.setattr(token_softmax, "LEAST_BLOCK_TOKENS", 5)
    monkeypatch.setattr(token_softmax, "loss_in_blocks", loss_in_blocks)
    actual, _ = _factorised.__wrapped__("decoder", mesh_shape)
    assert_same_step(actual, expected)
    assert set(widths) == {mtf.Dimension("d_embedding", D_EMBEDDING)}


@pytest.mark.parametrize("transposed_from", [token_softmax.TRANSPOSED_FROM, 0])
def test_steps_of_decoding_give_the_logits_of_whole_rows(
    transposed_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_softmax, "TRANSPOSED_FROM", transposed_from)
    mesh = mtf.Mesh(ONE_DEVICE)
    model = _model(mesh, "decoder", _embedding("decoder", d_embedding=D_EMBEDDING))
    targets = packed_rows()["targets"] + 1
    whole = logits_of(model, mesh, {"targets": targets})
    one_by_one = logits_step_by_step(model, mesh, {}, targets)
    assert_close(one_by_one, whole, FLOAT32_MODEL_TOLERANCE)


def test_a_softmax_of_labels_has_no_map() -> None:
    embedding = t.TokenEmbedding(d_model=D_MODEL, d_embedding=D_EMBEDDING)
    stack = functools.partial(t.Stack, num_layers=1, layers=[t.FeedForward])
    mesh = mtf.Mesh(ONE_DEVICE)
    model = t.EncoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack, num_labels=3)
    shapes = {path: v.shape.to_integer_list for path, v in model.named_variables().items()}
    assert shapes[TABLE] == [VOCABULARY, D_EMBEDDING]
    assert shapes["softmax/kernel"] == [D_MODEL, 3]
    assert OUT not in shapes


@pytest.mark.parametrize(
    "base_sizes, is_output, scale",
    [
        ({"d_model": 4}, True, D_EMBEDDING**-0.5),
        ({"d_model": 4, "d_embedding": 2}, False, 2**-0.5 / 4),
    ],
)
def test_only_a_table_that_grows_has_a_factor_of_mup(
    base_sizes: Mapping[str, int], is_output: bool, scale: float
) -> None:
    mesh = mtf.Mesh(ONE_DEVICE)
    embedding = _embedding("decoder", d_embedding=D_EMBEDDING)
    stack = functools.partial(t.Stack, num_layers=1, layers=[t.FeedForward])
    model = t.DecoderOnly(mesh, VOCABULARY, embedding=embedding, stack=stack)
    optim.set_base_sizes(model, base_sizes)
    assert model.embedding.logits_scale == pytest.approx(scale)
    assert model.softmax.projection is not None
    assert model.softmax.projection.kernel.growth.is_output == is_output


def test_learned_prompts_are_vectors_of_d_model() -> None:
    model = _model(mtf.Mesh(ONE_DEVICE), "decoder", _embedding("decoder", d_embedding=D_EMBEDDING))
    t.LearnedPrompts(3).attach(model)
    assert model.prompt.vectors is not None
    assert model.prompt.vectors.shape == mtf.Shape([("prompt_length", 3), ("d_model", D_MODEL)])


def test_a_student_of_the_same_width_needs_no_map_of_vectors() -> None:
    student = _model(mtf.Mesh(ONE_DEVICE), "decoder", _embedding("decoder", d_embedding=4))
    settings = DistillationLoss(hidden_weight=1.0)
    assert Distiller(student, settings, D_MODEL).projection is None
    assert Distiller(student, settings, 4).projection is not None


def test_the_columns_are_a_number() -> None:
    with pytest.raises(InputError, match=r"d_embedding.*at least 1"):
        t.TokenEmbedding(d_embedding=0)
