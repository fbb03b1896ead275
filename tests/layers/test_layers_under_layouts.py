"""No layout changes the output of a layer, nor its gradients; dropout is on."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

from mtfrun import layers, mtf
from mtfrun.extras import huggingface, vision
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe, transformer
from mtfrun.models.transformer import SequenceCall
from tests.case_tables import exported, recorded_calls, require_a_case_of_each
from tests.layers.differentiated import output_and_gradients
from tests.layouts import FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close, meshes

BATCH, LENGTH, D_MODEL, VOCAB = "batch:8", "length:4", "d_model:8", "vocab:16"
WIDTH = mtf.convert_to_dimension(D_MODEL)
IDS = mtf.convert_to_dimension(VOCAB)
RNG = np.random.default_rng(0)


def _normal(*sizes: int) -> np.ndarray:
    return RNG.normal(size=sizes).astype(np.float32)


def _integers(high: int, *sizes: int) -> np.ndarray:
    return RNG.integers(0, high, sizes).astype(np.int32)


X = {"x": (f"{BATCH};{LENGTH};{D_MODEL}", _normal(8, 4, 8))}
ROWS = {"ids": (f"{BATCH};{LENGTH}", _integers(16, 8, 4))}
SEGMENTS = {"ids": (ROWS["ids"][0], _integers(2, 8, 4))}
DOCUMENTS = {"ids": (ROWS["ids"][0], np.array([[1, 1, 1, 0], [1, 1, 2, 2]] * 4, np.int32))}
MEMORY = {"memory": (f"{BATCH};memory_length:6;{D_MODEL}", _normal(8, 6, 8))}
CHANNELS, FILTERS = mtf.Dimension("channels", 3), mtf.Dimension("filters", 4)
LINE = {"x": (f"{BATCH};cols:6;channels:3", _normal(8, 6, 3))}
IMAGES = {"x": (f"{BATCH};rows:4;cols:6;channels:3", _normal(8, 4, 6, 3))}
VOLUMES = {"x": (f"{BATCH};depth:4;rows:4;cols:4;channels:3", _normal(8, 4, 4, 4, 3))}
LOGITS = {"logits": (f"{BATCH};{LENGTH};{VOCAB}", _normal(8, 4, 16)), **ROWS}


class Case(NamedTuple):
    """A layer, how it is called and its inputs."""

    make: Callable[[mtf.Mesh], mtf.Module]
    apply: Callable[[Any, Mapping[str, mtf.Tensor], SequenceCall], mtf.Tensor]
    inputs: dict[str, Any]


def _attend(
    layer: transformer.Sublayer, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    causal = layers.causal_mask(inputs["x"].mesh, mtf.Dimension("length", 4))
    masks = layers.mask_segments(layers.AttentionBias.of(causal), inputs["ids"])
    return layer(inputs["x"], dataclasses.replace(call, self_attention_bias=masks))


def _attend_to_encoder(
    layer: transformer.Sublayer, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    memory = transformer.EncoderMemory(inputs["memory"])
    return layer(inputs["x"], dataclasses.replace(call, encoder=memory))


def _attend_to_memory(
    layer: layers.MultiHeadAttention, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    memory = layer.keys_and_values(inputs["memory"])
    memory_length = inputs["memory"].shape.get_dim_by_name("memory_length")
    return layer(inputs["x"], memory, memory_length, layers.NO_BIAS, call)


def _relative_positions(
    layer: layers.RelativePositionBias | layers.LinearDistanceBias,
    inputs: Mapping[str, mtf.Tensor],
    call: SequenceCall,
) -> mtf.Tensor:
    mesh = inputs["x"].mesh
    positions, memory_positions = (mtf.range(mesh, dim) for dim in ("length:4", "memory_length:6"))
    return layer(positions, memory_positions, call, bidirectional=True) * mtf.reduce_sum(
        inputs["x"]
    )


def _apply(layer: Any, inputs: Mapping[str, mtf.Tensor], call: SequenceCall) -> mtf.Tensor:
    return layer(inputs["x"], call)


HEADS = layers.AttentionHeads(4, d_kv=4)
NORMED_HEADS = layers.AttentionHeads(
    4,
    d_kv=4,
    norm=functools.partial(layers.RMSNorm, scale_offset=1.0),
    norm_heads="together",
    projection_limit=0.5,
    logits_cap=2.0,
)

LATENT_HEADS = huggingface.LatentHeads(
    4, d_latent=6, d_query_latent=5, d_kv=4, d_rotary=2, d_v=3, use_bias=True
)
TALKING_HEADS = zoo.TalkingHeads(
    [("heads", 4), ("key_heads", 2)],
    [("heads", 4), ("softmax_heads", 3)],
    [("heads", 4), ("key_heads", 2)],
    d_k=2,
    d_v=2,
)

CLUSTERS = zoo.VocabularyClusters([4, 8], [8, 4, 6], adaptive_softmax=True)
# Groups of tokens that all meshes divide, of rows and of the memory.
MIXTURE = functools.partial(
    moe.MoE1D,
    num_experts=4,
    router=functools.partial(moe.Router, gate=moe.Switch()),
    capacity=moe.Capacity(group_size=6),
)
BY_EXPERTS = zoo.ExpertProjections(
    mixture=MIXTURE, experts=functools.partial(moe.Experts, hidden_size=8, dropout_rate=0.3)
)

KINDS_OF_FILTERS = {"TrainedFilters": transformer, "LightweightFilters": zoo, "DynamicFilters": zoo}
WINDOW = transformer.ConvolutionWindow(-1, 2, masks_start=True)


class _Transparent(mtf.Module):
    """An encoder whose outputs the blocks of a decoder mix."""

    def __init__(self, mesh: mtf.Mesh) -> None:
        super().__init__()
        feed_forward = functools.partial(transformer.FeedForward, d_ff=16)
        attention = functools.partial(transformer.EncoderDecoderAttention, heads=HEADS)
        self.encoder = zoo.TransparentEncoder(mesh, WIDTH, num_layers=2, layers=[feed_forward])
        self.decoder = zoo.TransparentDecoder(
            mesh,
            WIDTH,
            mixture=zoo.EncoderMixture(2, dropout_rate=0.3),
            num_layers=2,
            layers=[attention],
            rematerialise=True,
        )

    def __call__(self, x: mtf.Tensor, memory: mtf.Tensor, call: SequenceCall) -> mtf.Tensor:
        encoder = transformer.EncoderMemory(self.encoder(memory, call))
        return self.decoder(x, dataclasses.replace(call, encoder=encoder))


def _synthesizer(logits: zoo.SyntheticLogits, mesh: mtf.Mesh) -> zoo.Synthesizer:
    return zoo.Synthesizer(mesh, WIDTH, num_heads=4, d_kv=4, logits=logits, dropout_rate=0.3)


def _cluster_softmax(mesh: mtf.Mesh) -> zoo.ClusterSoftmax:
    table = zoo.AdaptiveEmbedding(mesh, IDS, WIDTH, clusters=CLUSTERS)
    return zoo.ClusterSoftmax(mesh, 13, IDS, WIDTH, tied=table)


def _filters(name: str, mesh: mtf.Mesh) -> mtf.Module:
    module: mtf.Module = getattr(KINDS_OF_FILTERS[name], name)(mesh, WIDTH)
    return module


def _convolve(
    layer: transformer.Sublayer, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    nonpadding = mtf.to_float(inputs["ids"])
    return layer(inputs["x"], dataclasses.replace(call, bidirectional=True, nonpadding=nonpadding))


def _encode(
    layer: transformer.Sublayer, inputs: Mapping[str, mtf.Tensor], call: SequenceCall
) -> mtf.Tensor:
    bias = layers.mask_segments(layers.NO_BIAS, inputs["ids"])
    call = dataclasses.replace(call, self_attention_bias=bias, segments=inputs["ids"])
    return layer(inputs["x"], dataclasses.replace(call, bidirectional=True))


CASES = {
    "gated_feed_forward": Case(
        lambda mesh: transformer.GatedFeedForward(mesh, WIDTH, d_ff=16, dropout_rate=0.3), _apply, X
    ),
    "local_self_attention": Case(
        lambda mesh: transformer.LocalSelfAttention(mesh, WIDTH, window=2, heads=HEADS),
        _attend,
        {**X, **SEGMENTS},
    ),
    "transient_global_attention": Case(
        lambda mesh: huggingface.TransientGlobalAttention(
            mesh,
            WIDTH,
            window=2,
            blocks=huggingface.BlockSums(
                2, relative_bias=functools.partial(layers.RelativePositionBias, num_heads=4)
            ),
            heads=HEADS,
            dropout_rate=0.3,
        ),
        _encode,
        {**X, **DOCUMENTS},
    ),
    "encoder_decoder_attention": Case(
        lambda mesh: transformer.EncoderDecoderAttention(mesh, WIDTH, heads=HEADS),
        _attend_to_encoder,
        {**X, **MEMORY},
    ),
    "latent_self_attention": Case(
        lambda mesh: huggingface.LatentSelfAttention(
            mesh, WIDTH, heads=LATENT_HEADS, dropout_rate=0.3
        ),
        _attend,
        {**X, **SEGMENTS},
    ),
    "talking_heads_self_attention": Case(
        lambda mesh: zoo.TalkingHeadsSelfAttention(
            mesh, WIDTH, heads=TALKING_HEADS, dropout_rate=0.3
        ),
        _attend,
        {**X, **SEGMENTS},
    ),
    "talking_heads_encoder_decoder_attention": Case(
        lambda mesh: zoo.TalkingHeadsEncoderDecoderAttention(
            mesh,
            WIDTH,
            heads=dataclasses.replace(
                TALKING_HEADS, dynamic_logits=["query", "memory"], dynamic_weights=["memory"]
            ),
        ),
        _attend_to_encoder,
        {**X, **MEMORY},
    ),
    **{
        f"synthesizer_{logits.kind}": Case(
            functools.partial(_synthesizer, logits), _attend, {**X, **SEGMENTS}
        )
        for logits in (
            zoo.SyntheticLogits("random", max_length=8),
            zoo.SyntheticLogits("factorized", None, max_length=8, factor_size=3),
            zoo.SyntheticLogits("dense", "added", max_length=8),
        )
    },
    "experts_self_attention": Case(
        lambda mesh: zoo.ExpertsSelfAttention(
            mesh, WIDTH, heads=HEADS, projections=BY_EXPERTS, dropout_rate=0.3
        ),
        _attend,
        {**X, **SEGMENTS},
    ),
    "experts_encoder_decoder_attention": Case(
        lambda mesh: zoo.ExpertsEncoderDecoderAttention(
            mesh, WIDTH, heads=HEADS, projections=BY_EXPERTS
        ),
        _attend_to_encoder,
        {**X, **MEMORY},
    ),
    "heterogeneous_experts": Case(
        lambda mesh: MIXTURE(
            mesh,
            WIDTH,
            experts=functools.partial(
                zoo.HeterogeneousExperts, sizes=[(1, 8, 2), (3, 5)], dropout_rate=0.3
            ),
        ),
        _apply,
        X,
    ),
    "product_key_memory": Case(
        lambda mesh: zoo.ProductKeyMemory(
            mesh, WIDTH, num_keys=6, num_heads=4, key_size=8, num_selected=3
        ),
        _apply,
        X,
    ),
    "transparent_attention": Case(
        _Transparent,
        lambda layer, inputs, call: layer(inputs["x"], inputs["memory"], call),
        {**X, **MEMORY},
    ),
    "convolution": Case(
        lambda mesh: zoo.Convolution(mesh, WIDTH, window=WINDOW, activation=mtf.gelu),
        _convolve,
        {**X, **SEGMENTS},
    ),
    "depthwise_convolution": Case(
        lambda mesh: transformer.DepthwiseConvolution(mesh, WIDTH, window=WINDOW),
        _convolve,
        {**X, **SEGMENTS},
    ),
    "gated_linear_unit": Case(lambda mesh: zoo.GatedLinearUnit(mesh, WIDTH), _apply, X),
    "encoder_convolutions": Case(
        lambda mesh: zoo.EncoderConvolutions(mesh, WIDTH, dropout_rate=0.3),
        _convolve,
        {**X, **SEGMENTS},
    ),
    "decoder_convolutions": Case(
        lambda mesh: zoo.DecoderConvolutions(mesh, WIDTH, masks_start=True),
        _convolve,
        {**X, **SEGMENTS},
    ),
    "gated_convolution": Case(
        lambda mesh: zoo.GatedConvolution(
            mesh,
            WIDTH,
            convolution=functools.partial(
                transformer.DepthwiseConvolution,
                window=WINDOW,
                filters=functools.partial(zoo.DynamicFilters, repeats=2),
            ),
        ),
        _convolve,
        {**X, **SEGMENTS},
    ),
    **{
        name: Case(
            functools.partial(_filters, name),
            lambda layer, inputs, call: layer(inputs["x"], call) * inputs["x"],
            X,
        )
        for name in KINDS_OF_FILTERS
    },
    "multi_head_attention": Case(
        lambda mesh: layers.MultiHeadAttention(mesh, WIDTH, heads=HEADS, dropout_rate=0.3),
        _attend_to_memory,
        {**X, **MEMORY},
    ),
    "relative_position_bias": Case(
        lambda mesh: layers.RelativePositionBias(mesh, num_heads=4), _relative_positions, X
    ),
    "linear_distance_bias": Case(
        lambda mesh: layers.LinearDistanceBias(mesh, num_heads=4), _relative_positions, X
    ),
    "stack": Case(
        lambda mesh: transformer.Stack(
            mesh, WIDTH, num_layers=2, layers=[transformer.FeedForward], rematerialise=True
        ),
        _apply,
        X,
    ),
    "reversible_stack": Case(
        lambda mesh: zoo.ReversibleStack(
            *(mesh, WIDTH),
            num_layers=3,
            layers=[transformer.FeedForward],
            transforms=transformer.StackTransforms(
                layer=[transformer.RMSNorm, transformer.CallLayer]
            ),
        ),
        _apply,
        X,
    ),
    "funnel_stack": Case(
        lambda mesh: zoo.FunnelStack(
            mesh,
            WIDTH,
            funnel=zoo.Funnel([1, 1], kind="max"),
            layers=[functools.partial(transformer.SelfAttention, heads=HEADS)],
            rematerialise=True,
        ),
        _encode,
        {**X, **DOCUMENTS},
    ),
    "universal_stack": Case(
        lambda mesh: zoo.UniversalStack(
            mesh,
            WIDTH,
            recurrence=zoo.Recurrence(3, signals=zoo.StepSignals, halting=zoo.Halting),
            layers=[transformer.FeedForward],
        ),
        _apply,
        X,
    ),
    "softmax": Case(
        lambda mesh: transformer.TokenSoftmax(
            mesh, 13, IDS, WIDTH, logits=transformer.TokenLogits(softmax_bias=True, logits_cap=2.0)
        ),
        # Not the logits of padding, which are about -1e9.
        lambda layer, inputs, call: mtf.softmax(layer(inputs["x"], call), IDS),
        X,
    ),
    "mixture_of_softmaxes": Case(
        lambda mesh: zoo.MixtureOfSoftmaxes(mesh, 13, IDS, WIDTH),
        lambda layer, inputs, call: mtf.softmax(layer(inputs["x"], call), IDS),
        X,
    ),
    "mixtape": Case(
        lambda mesh: zoo.Mixtape(mesh, 13, IDS, WIDTH, gates=zoo.MixtapeGates(4, 0.3, 0.3, 0.1)),
        lambda layer, inputs, call: mtf.softmax(layer(inputs["x"], call), IDS),
        X,
    ),
    "adaptive_embedding": Case(
        lambda mesh: zoo.AdaptiveEmbedding(mesh, IDS, WIDTH, clusters=CLUSTERS, factor=2.0),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "cluster_softmax": Case(
        _cluster_softmax, lambda layer, inputs, call: mtf.softmax(layer(inputs["x"], call), IDS), X
    ),
    "parallel": Case(
        lambda mesh: huggingface.Parallel(
            mesh,
            WIDTH,
            layers=[
                functools.partial(transformer.SelfAttention, heads=NORMED_HEADS, rotary=True),
                functools.partial(transformer.FeedForward, d_ff=16),
            ],
            transforms=[transformer.LayerNorm, transformer.CallLayer],
        ),
        _attend,
        {**X, **SEGMENTS},
    ),
    "sublayer_dropout": Case(
        lambda mesh: transformer.SublayerDropout(mesh, WIDTH, rate=0.4), _apply, X
    ),
    "sinusoid_positions": Case(
        lambda mesh: layers.SinusoidPositions(mesh, 16, WIDTH),
        lambda layer, inputs, call: inputs["x"] * layer(inputs["ids"], call),
        {**X, **ROWS},
    ),
    "activation_scale": Case(lambda mesh: layers.ActivationScale(mesh), _apply, X),
    "batch_norm": Case(lambda mesh: layers.BatchNorm(mesh, [WIDTH]), _apply, X),
    "conv_1d": Case(lambda mesh: layers.Conv1D(mesh, CHANNELS, FILTERS), _apply, LINE),
    "conv_2d": Case(lambda mesh: layers.Conv2D(mesh, CHANNELS, FILTERS), _apply, IMAGES),
    "depthwise_conv_2d": Case(lambda mesh: layers.DepthwiseConv2D(mesh, CHANNELS), _apply, IMAGES),
    "conv_3d": Case(lambda mesh: layers.Conv3D(mesh, CHANNELS, FILTERS), _apply, VOLUMES),
    "conv_2d_transpose": Case(
        lambda mesh: layers.Conv2DTranspose(mesh, CHANNELS, FILTERS), _apply, IMAGES
    ),
    "conv_3d_transpose": Case(
        lambda mesh: layers.Conv3DTranspose(mesh, CHANNELS, FILTERS), _apply, VOLUMES
    ),
    "separable_conv_1d": Case(
        lambda mesh: layers.SeparableConv1D(mesh, mtf.Dimension("length", 4), WIDTH, FILTERS),
        _apply,
        X,
    ),
    "dense": Case(
        lambda mesh: layers.Dense(
            mesh,
            [WIDTH],
            [mtf.Dimension("heads", 4), mtf.Dimension("d_kv", 2)],
            activation=mtf.gelu,
        ),
        _apply,
        X,
    ),
    "dense_transform": Case(
        lambda mesh: transformer.DenseTransform(mesh, WIDTH, activation=mtf.gelu), _apply, X
    ),
    "dense_product": Case(
        lambda mesh: layers.DenseProduct(mesh, [WIDTH], [mtf.Dimension("d_ff", 16)]), _apply, X
    ),
    "rms_norm": Case(lambda mesh: layers.RMSNorm(mesh, WIDTH), _apply, X),
    "layer_norm": Case(lambda mesh: layers.LayerNorm(mesh, WIDTH), _apply, X),
    "layer_norm_over_a_split_dimension": Case(
        lambda mesh: layers.LayerNorm(mesh, IDS),
        lambda layer, inputs, call: layer(inputs["logits"], call),
        LOGITS,
    ),
    "embedding": Case(
        lambda mesh: layers.Embedding(mesh, IDS, WIDTH),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "tied_softmax": Case(
        lambda mesh: layers.Embedding(mesh, IDS, WIDTH),
        lambda layer, inputs, call: layer.logits(inputs["x"]),
        X,
    ),
    "positional_embedding": Case(
        lambda mesh: layers.PositionalEmbedding(mesh, 16, WIDTH),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "image_positions": Case(
        lambda mesh: vision.ImagePositions(mesh, 16, WIDTH, image=vision.ImageSize(4, 2, 2)),
        lambda layer, inputs, call: layer(inputs["ids"], call),
        ROWS,
    ),
    "local_image_attention": Case(
        lambda mesh: vision.LocalImageAttention(
            mesh, WIDTH, image=vision.ImageSize(2, 2), rows=1, cols=0, heads=HEADS
        ),
        _attend,
        {**X, **SEGMENTS},
    ),
    "first_positions": Case(
        lambda mesh: layers.PositionalEmbedding(mesh, 16, WIDTH),
        lambda layer, inputs, call: layer.first(mtf.Dimension("length", 4)),
        {},
    ),
    "dropout": Case(lambda mesh: layers.Dropout(0.4), _apply, X),
    "feed_forward": Case(
        lambda mesh: transformer.FeedForward(mesh, WIDTH, d_ff=16, dropout_rate=0.3), _apply, X
    ),
    "self_attention": Case(
        lambda mesh: transformer.SelfAttention(mesh, WIDTH, heads=HEADS, dropout_rate=0.3),
        _attend,
        {**X, **SEGMENTS},
    ),
    "cross_entropy_with_ids": Case(
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_ids(
            inputs["logits"], inputs["ids"], IDS, label_smoothing=0.1, z_loss=0.01
        ),
        LOGITS,
    ),
    "cross_entropy_with_probabilities": Case(
        lambda mesh: layers.Dropout(0.0),
        lambda layer, inputs, call: layers.softmax_cross_entropy_with_logits(
            inputs["logits"], mtf.softmax(inputs["targets"], IDS), IDS, z_loss=0.01
        ),
        {**LOGITS, "targets": (LOGITS["logits"][0], _normal(8, 4, 16))},
    ),
}


@functools.cache
def _results(name: str, mesh_shape: str) -> dict[str, np.ndarray]:
    return output_and_gradients(mesh_shape, *CASES[name])


# Layers that are like another one.
_SLOW = """
    gated_feed_forward multi_head_attention talking_heads_encoder_decoder_attention dense rms_norm
    transparent_attention experts_encoder_decoder_attention heterogeneous_experts product_key_memory
    reversible_stack universal_stack funnel_stack synthesizer_random synthesizer_factorized
    synthesizer_dense convolution depthwise_convolution gated_linear_unit decoder_convolutions
    adaptive_embedding conv_1d conv_3d conv_3d_transpose layer_norm positional_embedding
    feed_forward self_attention cross_entropy_with_probabilities
"""
SLOW = [*_SLOW.split(), *KINDS_OF_FILTERS]


@pytest.mark.parametrize("mesh_shape", meshes())
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in CASES]
)
def test_a_layout_changes_neither_output_nor_gradients(name: str, mesh_shape: str) -> None:
    expected, actual = _results(name, ONE_DEVICE), _results(name, mesh_shape)
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert_close(actual[key], value, FLOAT32_OP_TOLERANCE)


def _is_layer(value: Any) -> bool:
    is_module = isinstance(value, type) and issubclass(value, mtf.Module)
    return is_module and "__call__" in dir(value) and not inspect.isabstract(value)


# Of a sublayer, which stacks make: their tests have it.
WITHOUT_CASE = ["TransformedLayer"]


@pytest.mark.parametrize(
    ("package", "exempt"),
    [(layers, []), (transformer, WITHOUT_CASE), (zoo, [])],
    ids=["layers", "transformer", "zoo"],
)
def test_every_public_layer_has_a_case(package: ModuleType, exempt: list[str]) -> None:
    names = exported(package, _is_layer)
    mesh = mtf.Mesh(ONE_DEVICE)
    with (
        recorded_calls(layers, exported(layers, _is_layer)) as of_layers,
        recorded_calls(transformer, exported(transformer, _is_layer)) as of_transformer,
        recorded_calls(zoo, exported(zoo, _is_layer)) as of_zoo,
    ):
        for case in CASES.values():
            case.make(mesh)
    require_a_case_of_each(
        names, of_layers | of_transformer | of_zoo, exempt, f"CASES in {__file__}"
    )
