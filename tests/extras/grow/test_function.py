"""A grown model has the function of the old one, in any family and whatever grows."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.extras.grow.stream import Stream
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import transformer as t
from tests.extras.grow.pairs_of_models import LARGE, MULTIPLES, SMALL, Grown, assign, grow_pair

# Of the largest logit: float32, in sums of other orders.
TOLERANCE = 3e-6
TEXT, PAIRS = "data/python_docs.gin", "data/number_words.gin"
ALL_SLOTS = {"EVAL_CAPACITY_FACTOR": 8.0, "GROUP_SIZE": 80}
TWO_LEVELS = {**ALL_SLOTS, "SECOND_LEVEL_CAPACITY_FACTOR": 8.0}
DIGITS = {
    **{"IMAGE_ROWS": 8, "IMAGE_COLS": 8, "IMAGE_CHANNELS": 1},
    **{"SEQUENCE_LENGTH": 64, "BLOCK_LENGTH": 16},
}
OF_PATCHES = {"PATCH_SIZE": 2, "D_KV": 4}
GROUPED = {"NUM_MEMORY_HEADS": 2}
SHARED_KV = {"transformer.AttentionHeads.shared_kv": True}
COLUMNS = "transformer.TokenEmbedding.d_embedding"
FACTORISED = {COLUMNS: 8}
MUP = {"BASE_SIZES": {"d_model": 16, "d_kv": 4}}
COPIES = {"with_copies": True}

Case = tuple[Sequence[str], Mapping[str, Any], Mapping[str, Any], dict[str, Any]]


def _family(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Case:
    return [f"models/{name}.gin", TEXT], {**SMALL, **old}, {**LARGE, **new}, {}


def _into(name: str, old: str, macros: Mapping[str, Any]) -> Case:
    files = [f"models/{name}.gin", TEXT]
    return [f"models/{old}.gin", TEXT], {**SMALL}, {**SMALL, **macros}, {"new_files": files}


# One case of each cause; tests/quick_cases.txt has those of the default suite.
CASES: dict[str, Case] = {
    "layer normalisation, tied": _family("gpt2", {}, {}),
    "copies": (["extras/huggingface/models/gpt2.gin", TEXT], SMALL, MULTIPLES, COPIES),
    "grouped heads, rotary": _family("llama", GROUPED, {"NUM_MEMORY_HEADS": 3}),
    "one memory head": _family("llama", {"NUM_MEMORY_HEADS": 1}, GROUPED),
    "positions": _family("lm_tiny", {}, {}),
    "widths by muP": _family("lm_tiny", MUP, MUP),
    "shared keys and values": _family("lm_tiny", SHARED_KV, SHARED_KV),
    "factor of the embedding": _family("gemma", {}, {}),
    "factor of a factorised embedding": _family("gemma", FACTORISED, FACTORISED),
    "copies, factorised embedding": (
        ["extras/huggingface/models/gpt2.gin", TEXT],
        {**SMALL, **FACTORISED},
        {**MULTIPLES, **FACTORISED},
        COPIES,
    ),
    "soft cap, norms behind layers": _family("gemma2", {}, {}),
    "normalised embedding, slopes": (
        ["extras/huggingface/models/bloom.gin", TEXT],
        SMALL,
        MULTIPLES,
        {},
    ),
    "norms of heads": _family("qwen3", {}, {"D_KV": 4}),
    "a norm of all heads": _family("olmo2", {}, {"D_KV": 4, "NUM_HEADS": 8}),
    "factors of residuals and logits": _family("granite", {}, {}),
    "parallel layers": _family("cohere", {}, {}),
    "rotated part of a head": _family("gpt_neox", {"ROTATED": 2}, {"ROTATED": 2}),
    "logits by distance": (["models/t5.1.1.tiny.gin", PAIRS], SMALL, LARGE, {}),
    "tied encoder-decoder": (["models/t5.1.0.tiny.gin", PAIRS], SMALL, LARGE, {}),
    "attention of Tensor2Tensor": (
        ["extras/mesh_tensorflow/models/t2t_image_transformer.gin", "data/digits.gin"],
        {**SMALL, **DIGITS},
        {**LARGE, **DIGITS, "D_KV": 4},
        {},
    ),
    "vision transformer": (
        ["extras/vision/models/vit.gin", "data/digits.gin"],
        {**OF_PATCHES, "NUM_LAYERS": 1, "D_MODEL": 16, "D_FF": 32, "NUM_HEADS": 4},
        {**OF_PATCHES, "NUM_LAYERS": 2, "D_MODEL": 40, "D_FF": 72, "NUM_HEADS": 6},
        {},
    ),
    "U-Net": (["extras/vision/runs/shapes.gin"], {"WIDTHS": [4, 6]}, {"WIDTHS": [6, 12]}, {}),
    "copies in a U-Net": (
        ["extras/vision/runs/shapes.gin"],
        {"WIDTHS": [4, 6]},
        {"WIDTHS": [6, 12]},
        COPIES,
    ),
    "filters": (
        ["runs/digits.gin"],
        {"WIDTHS": [4, 8, 12]},
        {"WIDTHS": [6, 8, 16], "STAGE_SIZES": [1, 2, 2]},
        {},
    ),
    "experts from a layer": _into("moe_1d_tiny", "lm_tiny", ALL_SLOTS),
    "dropless experts": _into("moe_dropless_tiny", "lm_tiny", {"D_FF": 48}),
    "two levels from a layer": _into("moe_2d_tiny", "lm_tiny", TWO_LEVELS),
    "gated experts": (
        ["runs/quickstart.gin"],
        SMALL,
        {**SMALL, **TWO_LEVELS},
        {"new_files": ["runs/moe_quickstart.gin"]},
    ),
    "two levels from one": (
        ["models/moe_1d_tiny.gin", TEXT],
        {**SMALL, **ALL_SLOTS},
        {**SMALL, **TWO_LEVELS, "NUM_EXPERTS": (8, 2)},
        {"new_files": ["models/moe_2d_tiny.gin", TEXT]},
    ),
    "wider experts": (
        ["models/moe_2d_tiny.gin", TEXT],
        {**SMALL, **TWO_LEVELS},
        {**SMALL, **TWO_LEVELS, "D_MODEL": 40, "D_FF": 72, "NUM_LAYERS": 2},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logits_stay_the_same(case: Case) -> None:
    files, old, new, options = case
    grown = grow_pair(files, old, new, **options)
    assert not grown.notes or "equal experts" in grown.notes[0]
    assert grown.difference() < TOLERANCE


def _gradients(grown: Grown, *, of_new: bool) -> Mapping[str, np.ndarray]:
    experiment = grown.new if of_new else grown.old
    model = experiment.model
    features = {
        name: mtf.import_tf_tensor(experiment.mesh, value, [("batch", 2), ("length", 80)])
        for name, value in grown.features.items()
    }

    def gradients(features: Mapping[str, mtf.Tensor]) -> Mapping[str, mtf.Tensor | None]:
        loss = lambda: model.loss(features, training=False).total  # noqa: E731
        return mtf.value_and_gradients(loss, model.named_variables())[1]

    computed = mtf.function(gradients)(features)
    return {path: mtf.to_numpy(x) for path, x in computed.items()}


@pytest.mark.parametrize(
    "name", ["grouped heads, rotary", pytest.param("copies", marks=pytest.mark.slow)]
)
def test_slots_follow_the_gradients(name: str) -> None:
    files, old, new, options = CASES[name]
    grown = grow_pair(files, old, {**new, "SEQUENCE_LENGTH": 80}, **options)
    before, after = (_gradients(grown, of_new=of_new) for of_new in (False, True))
    # Of gradients that are 0 but for rounding: those of biases of keys.
    rounding = 1e-6 * max(np.abs(gradient).max() for gradient in before.values())
    for path, variable_map in grown.variables.maps.items():
        source = grown.variables.origins[path].source
        assert source is not None
        expected = variable_map.map_gradients(before[source], 1)
        error = np.where(expected == 0.0, 0.0, after[path] - expected)
        assert np.abs(error).max() < max(1e-4 * np.abs(expected).max(), rounding), path


def test_keys_that_heads_share_are_a_mean() -> None:
    old, new = {**SMALL, "NUM_MEMORY_HEADS": 4}, {**SMALL, **GROUPED}
    grown = grow_pair(["extras/huggingface/models/llama.gin", TEXT], old, new)
    assert grown.notes == ["keys and values of several heads become their mean"]
    (key,) = (path for path in grown.variables.new if path.endswith("/key"))
    before, after = (mtf.to_numpy(x[key]) for x in (grown.variables.old, grown.variables.new))
    np.testing.assert_allclose(after[:, 1], before[:, 2:].mean(1), rtol=1e-6)
    # Equal keys and values may be one.
    for path in (key, key.removesuffix("key") + "value"):
        old_variable, new_variable = grown.variables.old[path], grown.variables.new[path]
        value = mtf.to_numpy(old_variable)[:, [0, 0, 2, 2]]
        assign(old_variable, value)
        assign(new_variable, grown.variables.grow(path, value))
    assert grown.difference() < TOLERANCE


@pytest.mark.slow
def test_the_columns_of_an_embedding_do_not_grow() -> None:
    files = ["extras/huggingface/models/opt.gin", TEXT]
    with pytest.raises(InputError, match="table: d_embedding cannot grow from 8 to 12"):
        grow_pair(files, {**SMALL, **FACTORISED}, {**SMALL, COLUMNS: 12})
    with pytest.raises(InputError, match="it has embedding/projection/kernel, softmax"):
        grow_pair(files, SMALL, {**SMALL, **FACTORISED})


def test_vectors_of_clusters_do_not_grow() -> None:
    clusters = zoo.VocabularyClusters([8], [4, 2])
    table = functools.partial(zoo.AdaptiveEmbedding, clusters=clusters)
    stack = functools.partial(t.Stack, num_layers=1, layers=[t.FeedForward])
    models = [
        t.DecoderOnly(
            mtf.Mesh(),
            16,
            embedding=t.TokenEmbedding(size, table=table, softmax=zoo.ClusterSoftmax),
            stack=stack,
        ).named_modules()
        for size in (8, 16)
    ]
    with pytest.raises(InputError, match="with tables of several widths d_model cannot grow"):
        Stream(*models, with_copies=False)


@pytest.mark.slow
def test_outputs_of_experts_make_up_for_the_weight_of_the_only_one() -> None:
    files, old, new, options = _into("moe_switch_tiny", "lm_tiny", ALL_SLOTS)
    grown = grow_pair(files, old, new, **options)
    routers = [x for path, x in grown.variables.new.items() if path.endswith("/router/kernel")]
    for router in routers:
        # The weight of one of eight experts is then 1 / 8.
        mtf.assign(router, mtf.zeros(router.mesh, router.shape))
    assert routers
    assert grown.difference() < TOLERANCE


@pytest.mark.slow
def test_a_group_has_experts_of_one_level_and_copies_of_them() -> None:
    files, new_files = ([f"models/{name}.gin", TEXT] for name in ("moe_1d_tiny", "moe_2d_tiny"))
    new = {**SMALL, "NUM_EXPERTS": (4, 4)}
    grown = grow_pair(files, SMALL, new, new_files=new_files)
    before, after = (
        next(x for path, x in variables.items() if path.endswith("/experts/wo/kernel"))
        for variables in (grown.variables.old, grown.variables.new)
    )
    assert after.shape.dimension_names[:2] == ["expert_y", "expert_x"]
    of_one_level, groups = mtf.to_numpy(before), mtf.to_numpy(after)
    for place, group in np.ndindex(4, 4):
        expert = 2 * group + place % 2
        np.testing.assert_array_equal(groups[place, group], of_one_level[expert])
    with pytest.raises(InputError, match=r"8 experts become groups .* not 3 x 4"):
        grow_pair(files, SMALL, {**SMALL, "NUM_EXPERTS": (3, 4)}, new_files=new_files)
