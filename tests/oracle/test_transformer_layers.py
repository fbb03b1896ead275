"""Rarer layers of Mesh TensorFlow, imported: logits, losses, gradients, greedy decodes."""

from __future__ import annotations

import functools
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.configuration.gin_values import reference, value_text
from mtfrun.extras.mesh_tensorflow.importer.importer import read_run
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.extras.mesh_tensorflow.importer.imported_runs import import_run, restore
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_decodes import decodes_of, greedy, on_one_and_several, to_the_end
from tests.oracle.reference_models import layout_for, reference_gradient, run, save_weights

CASES = reference_cases("transformer_layers")
DECODES, _ = decodes_of(CASES)
CONFIG = """
run.model_type = 'bitransformer'
run.sequence_length = {'inputs': 8, 'targets': 6}
run.batch_size = 4
run.train_steps = 10
get_variable_dtype.activation_dtype = 'float32'
Unitransformer.d_model = 16
Unitransformer.vocab_divisor = 8
Unitransformer.positional_embedding = False
LayerStack.sublayers_initial = []
LayerStack.sublayers_final = [@sublayer_rms_norm]
SelfAttention.num_heads = 2
SelfAttention.key_value_size = 6
Synthesizer.num_heads = 2
Synthesizer.key_value_size = 6
DenseReluDense.hidden_size = 24
"""
FUNNEL = "FunnelTransformerLayerStack"
# In the original their positions attend to themselves alone.
PARTIAL = "experts_of_attention"
QUICK = "talking_heads_shared"
# Classes whose arguments stand in the list of layers; those of others hold for a whole stack.
WITH_ARGUMENTS = ("SelfAttention", "EncDecAttention", "DenseReluDense", "Conv1DLayer")


def _references(names: list[str]) -> list[Any]:
    return [reference(f"@{name}") for name in names]


def _bindings(hparams: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    transforms = ["sublayer_rms_norm", "sublayer_call_layer", "sublayer_residual"]
    if "stack" in hparams:
        yield "make_layer_stack.layer_stack_cls", reference(f"@{hparams['stack']}")
    is_reversible = hparams.get("stack") == "ReversibleLayerStack"
    transforms = transforms[:-1] if is_reversible else transforms
    yield "LayerStack.sublayers_per_layer", _references(transforms)
    yield "make_layer_stack.num_layers", hparams["num_layers"]
    for name, value in hparams.get("universal", {}).items():
        yield f"UTLayerStack.{name}", value
    if "funnel" in hparams:
        yield "encoder/make_layer_stack.layer_stack_cls", reference(f"@{FUNNEL}")
        sizes = hparams["funnel"]["block_param_size"]
        yield "encoder/make_layer_stack.num_layers", sum(sizes)
        yield f"{FUNNEL}.sublayers_initial", []
        yield f"{FUNNEL}.sublayers_per_layer", _references(transforms)
        yield f"{FUNNEL}.sublayers_final", _references(transforms[:1])
        for name, value in hparams["funnel"].items():
            yield f"{FUNNEL}.{name}", value
    if "ensemble" in hparams:
        yield "Unitransformer.ensemble", hparams["ensemble"]
    if "softmax" in hparams:
        cls, arguments = hparams["softmax"]
        yield "get_vocab_embedding_cls.cls", reference(f"@{cls}")
        for name, value in arguments.items():
            yield f"{cls}.{name}", value
        if cls.startswith("AdaptiveSoftmax"):
            yield "decoder/Unitransformer.loss_fn", reference("@adaptive_softmax_loss_fn")
    is_tied = "softmax" in hparams or "ensemble" in hparams
    yield "Unitransformer.shared_embedding_and_softmax_weights", is_tied
    for stack in ("encoder", "decoder"):
        layers: list[Any] = []
        for entry in hparams[stack]:
            cls, arguments = (entry, {}) if isinstance(entry, str) else entry
            arguments = dict(_arguments(arguments))
            if cls in WITH_ARGUMENTS and arguments:
                layers.append((arguments, reference(f"@{cls}")))
                continue
            layers.append(reference(f"@{cls}"))
            for name, value in arguments.items():
                yield f"{stack}/{cls}.{name}", value
        yield f"{stack}/make_layer_stack.layers", layers


def _config(case: ReferenceCase) -> str:
    lines = [f"{target} = {value_text(value)}\n" for target, value in _bindings(case.hparams)]
    return CONFIG + "".join(lines)


def _arguments(arguments: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    has_bias = arguments.get("relative_attention_type") is not None
    for name, value in arguments.items():
        if name == "layer_classes":
            yield name, _references(value)
        elif name.endswith("_dims"):
            yield name, [tuple(dim) for dim in value]
        elif has_bias or not name.startswith("relative_attention"):
            yield name, value


def _original_name(name: str, case: ReferenceCase) -> str:
    """Returns the name in a checkpoint; the stored cases of funnels have the usual names."""
    match = re.match(r"encoder/block_(\d+)/layer_(\d+)/", name)
    if match is None or "funnel" not in case.hparams:
        return name
    block = int(match[1])
    for part, size in enumerate(case.hparams["funnel"]["block_param_size"]):
        if block < size:
            start = f"encoder/funnel_block_{part:03d}/param_idx_{block:03d}"
            return f"{start}/submodule_{match[2]}/{name[match.end() :]}"
        block -= size
    raise AssertionError(name)


# More of them do not share a test, and remain in memory.
@functools.lru_cache(maxsize=1)
def _model(name: str, several: bool, *, masks_start: bool = True) -> tuple[TokenModel, mtf.Mesh]:
    """Returns the imported model, which tests do not change."""
    case = CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "source"
        source.mkdir()
        (source / "operative_config.gin").write_text(_config(case))
        weights = {_original_name(x, case): value for x, value in case.with_role("w").items()}
        save_weights({**weights, "global_step": np.asarray(3, np.int64)}, source / "model.ckpt-3")
        flags = ["--partial"] if name.startswith(PARTIAL) else []
        imported = import_run(source, pathlib.Path(folder) / "run", *flags)
        if not masks_start:
            path = pathlib.Path(imported.config_path)
            path.write_text(path.read_text().replace("masks_start = True", "masks_start = False"))
        mesh = dict(zip(("MESH_SHAPE", "LAYOUT"), layout_for(case), strict=True))
        state = restore(imported, **(mesh if several else {})).state
        mtf.to_numpy(state.model.named_variables())  # several devices read while programs run
    assert isinstance(state.model, TokenModel)
    return state.model, state.mesh


@pytest.mark.parametrize("name", CASES)
def test_layers_have_a_counterpart(name: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "operative_config.gin"
    path.write_text(_config(CASES[name]))
    bindings: Any = read_run(path, partial=name.startswith(PARTIAL)).record["bindings"]
    refused = {"encoder/make_layer_stack.layers", "decoder/make_layer_stack.layers"}
    assert bindings["not supported"].keys() == (refused if name.startswith(PARTIAL) else set())


def _on_one_or_several(names: Iterable[Any]) -> list[Any]:
    """Returns parameters as on_one_and_several does, without one device where several have it."""
    parameters = on_one_and_several(names)
    on_several = {x[:-1] for x in parameters if x[-1]}
    return [x for x in parameters if x[-1] or x[:-1] not in on_several or x[0] == QUICK]


@pytest.mark.parametrize("name, several", _on_one_or_several(CASES))
def test_logits_losses_and_gradients(name: str, several: bool) -> None:
    case = CASES[name]
    model, mesh = _model(name, several)
    features = {feature: case.arrays[f"in/{feature}"] for feature in ("inputs", "targets")}
    logits, training, gradients, evaluation = run(
        model, mesh, features, with_gradients=True, with_evaluation=True
    )
    expected = case.arrays["out/logits_eval"]
    if name == "adaptive_softmax":
        # The original's have the normaliser of the first softmax.
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    is_token = case.arrays["in/targets"] != 0
    assert_close(logits[is_token], expected[is_token], FLOAT32_MODEL_TOLERANCE)
    assert evaluation is not None
    size = case.arrays["in/targets"].size
    losses: list[Any] = [training, evaluation]  # of arrays
    if "ensemble" in case.hparams:
        losses.pop()  # the original's is the sum of the members' losses, as in training
    for loss, key in zip(losses, ("out/loss_train", "out/loss_eval"), strict=False):
        assert_close(loss.total / loss.weight, case.arrays[key], FLOAT32_MODEL_TOLERANCE)
    variables = model.named_variables()
    for path, gradient in gradients.items():
        expected = reference_gradient(case, path, variables)
        assert_close(gradient / size, expected, FLOAT32_MODEL_TOLERANCE)


@pytest.mark.parametrize("name, decode, several", _on_one_or_several(DECODES))
def test_greedy_decodes(name: str, decode: str, several: bool) -> None:
    case = CASES[name]
    # While it decodes, the original's convolutions see the id 0 before the first one.
    model, mesh = _model(name, several, masks_start=False)
    expected = case.arrays[f"out/{decode}_ids"]
    ids = greedy(model, mesh, np.zeros_like(expected), case.arrays["in/inputs"])
    np.testing.assert_array_equal(to_the_end(ids), to_the_end(expected))
