"""Small models of several widths, and rows for them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np

from mtfrun import mtf
from mtfrun.models import Model, moe, resnet, transformer
from tests.experiment.own_classes import SquaredRelu

VOCABULARY, LENGTH = 32, 12

ModelOfWidth = Callable[[mtf.Mesh, int], Model]


def language_model(
    mesh: mtf.Mesh,
    width: int,
    *,
    layer: Callable[..., transformer.Sublayer] | None = None,
    tied_softmax: bool = False,
    scaled_softmax: bool = True,
    grows_heads: bool = True,
    num_layers: int = 2,
    d_embedding: int | None = None,
) -> transformer.DecoderOnly:
    """Returns blocks of attention and `layer`; the heads grow in number, or else in size."""
    heads, d_kv = (width // 8, 8) if grows_heads else (2, width // 2)
    attention = functools.partial(
        transformer.SelfAttention,
        heads=transformer.AttentionHeads(num_heads=heads, d_kv=d_kv, scaled_logits=scaled_softmax),
    )
    feed_forward = layer or functools.partial(transformer.FeedForward, d_ff=2 * width)
    return transformer.DecoderOnly(
        mesh,
        VOCABULARY,
        embedding=transformer.TokenEmbedding(
            d_model=width,
            max_length=LENGTH,
            tied_softmax=tied_softmax,
            scaled_softmax=scaled_softmax,
            d_embedding=d_embedding,
        ),
        stack=functools.partial(
            transformer.Stack, layers=[attention, feed_forward], num_layers=num_layers
        ),
    )


def language_model_of_large_heads(mesh: mtf.Mesh, width: int) -> Model:
    """Returns a model with a tied softmax whose heads grow in size."""
    return language_model(mesh, width, tied_softmax=True, grows_heads=False)


def factorised_embedding(mesh: mtf.Mesh, width: int) -> Model:
    """Returns a model whose table, tied to the softmax, has as many columns at any width."""
    return language_model(mesh, width, tied_softmax=True, d_embedding=16, num_layers=1)


def mixture(mesh: mtf.Mesh, width: int) -> Model:
    experts = functools.partial(moe.Experts, hidden_size=2 * width)
    layer = functools.partial(moe.MoE1D, num_experts=4, experts=experts)
    return language_model(mesh, width, layer=layer)


def own_layer(mesh: mtf.Mesh, width: int) -> Model:
    """Returns a model with the feed-forward layer that a user has written."""
    return language_model(mesh, width, layer=functools.partial(SquaredRelu, d_ff=2 * width))


def resnet_20(mesh: mtf.Mesh, width: int) -> Model:
    """Returns a model of images 8x8 whose first stage has `width` filters."""
    backbone = resnet.Backbone(widths=(width, 2 * width, 4 * width), init_zero=False)
    return resnet.ResNet(mesh, 10, IMAGE, backbone=backbone)


IMAGE = mtf.convert_to_shape("rows:8;cols:8;channels:3")


def features(model: Model) -> Mapping[str, mtf.Tensor]:
    """Returns a batch of random features for a model."""
    mesh = next(iter(model.named_variables().values())).mesh
    return images(mesh) if isinstance(model, resnet.ResNet) else ids(mesh)


def ids(mesh: mtf.Mesh) -> Mapping[str, mtf.Tensor]:
    targets = np.random.default_rng(0).integers(1, VOCABULARY, [8, LENGTH])
    shape = mtf.convert_to_shape(f"batch:8;length:{LENGTH}")
    return {"targets": mtf.import_tf_tensor(mesh, targets.astype(np.int32), shape)}


def images(mesh: mtf.Mesh) -> Mapping[str, mtf.Tensor]:
    rng = np.random.default_rng(0)
    batch = mtf.Dimension("batch", 16)
    pixels = rng.integers(0, 256, [batch.size, *IMAGE.to_integer_list])
    labels = rng.integers(0, 10, [batch.size])
    arrays = {
        "images": (pixels, [batch, *IMAGE]),
        "labels": (labels, [batch]),
        "weights": (np.ones([batch.size]), [batch]),
    }
    return {
        name: mtf.import_tf_tensor(mesh, x.astype(np.int32), shape)
        for name, (x, shape) in arrays.items()
    }
