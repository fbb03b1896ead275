"""Runs with rarer layers are imported whole: the configuration, and a checkpoint by its names."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.models.transformer.tokens.token_model import TokenModel
from tests.extras.mesh_tensorflow.importer.imported_runs import import_run, restore
from tests.layouts import FLOAT32_MODEL_TOLERANCE, assert_close
from tests.oracle.reference_cases import ReferenceCase, reference_cases
from tests.oracle.reference_models import on_mesh

CASES = reference_cases("transformer_layers")
CONFIG = """
run.model_type = 'bitransformer'
run.sequence_length = {'inputs': 8, 'targets': 6}
run.batch_size = 4
run.train_steps = 10
get_variable_dtype.activation_dtype = 'float32'
Unitransformer.d_model = 16
Unitransformer.vocab_divisor = 8
Unitransformer.positional_embedding = False
make_layer_stack.num_layers = 1
LayerStack.sublayers_initial = []
LayerStack.sublayers_per_layer = [@sublayer_rms_norm, @sublayer_call_layer, @sublayer_residual]
LayerStack.sublayers_final = [@sublayer_rms_norm]
SelfAttention.num_heads = 2
SelfAttention.key_value_size = 6
DenseReluDense.hidden_size = 24
"""
CLUSTERS = """
encoder/make_layer_stack.layers = [@DenseReluDense]
decoder/make_layer_stack.layers = [@EncDecAttention]
Unitransformer.shared_embedding_and_softmax_weights = True
"""
MIXTURE = """
KIND.num_experts = 4
KIND.loss_coef = 0.1
KIND.group_size = 6
KIND.min_expert_capacity = 2
KIND.moe_gating = 'switch'
KIND.switch_policy_train = 'argmax'
KIND.switch_policy_eval = 'argmax'
"""
# In the original its positions attend to themselves alone.
PARTIAL = "experts_of_attention_qkv"
CONFIGS = {
    "ensemble_of_two": """
Unitransformer.ensemble = 2
Unitransformer.shared_embedding_and_softmax_weights = True
SelfAttention.relative_attention_type = 'bias_shared'
SelfAttention.relative_attention_num_buckets = 8
encoder/make_layer_stack.layers = [@SelfAttention, @DenseReluDense]
decoder/make_layer_stack.layers = [@SelfAttention, @EncDecAttention, @DenseReluDense]
""",
    "heterogeneous_experts": MIXTURE.replace("KIND", "HeterogeneousMoE1D")
    + """
HeterogeneousMoE1D.hidden_size = 1
HeterogeneousMoE1D.heterogeneous_mask_info = [
    {'percent_number': 0.5, 'layers': 1, 'width': 8},
    {'percent_number': 0.5, 'layers': 2, 'width': 5}]
encoder/make_layer_stack.layers = [@SelfAttention, @HeterogeneousMoE1D]
decoder/make_layer_stack.layers = [@EncDecAttention, @HeterogeneousMoE1D]
""",
    PARTIAL: MIXTURE.replace("KIND", "ExpertsSelfAttention")
    + """
ExpertsSelfAttention.hidden_size = 10
ExpertsSelfAttention.shared_kv = True
ExpertsSelfAttention.key_value_size = 8
encoder/make_layer_stack.layers = [@ExpertsSelfAttention]
decoder/make_layer_stack.layers = [@ExpertsSelfAttention, @EncDecAttention]
""",
    "shared_kv": """
SelfAttention.shared_kv = True
decoder/SelfAttention.attention_kwargs = {'extra_logit': 0.0}
EncDecAttention.attention_kwargs = {}
SelfAttention.relative_attention_type = 'bias_shared'
SelfAttention.relative_attention_num_buckets = 8
EncDecAttention.relative_attention_type = None
second/EncDecAttention.shared_kv = False
second/EncDecAttention.attention_kwargs = {'extra_logit': -0.7}
encoder/make_layer_stack.layers = [@SelfAttention, @DenseReluDense]
decoder/make_layer_stack.layers = [
    @SelfAttention, ({'num_heads': 4, 'num_memory_heads': 2}, @EncDecAttention),
    @second/EncDecAttention, @DenseReluDense]
""",
    "factorized_embedding": f"""{CLUSTERS}
get_vocab_embedding_cls.cls = @FactorizedVocabEmbedding
FactorizedVocabEmbedding.inner_dimension_size = 6
""",
    "adaptive_embedding": f"""{CLUSTERS}
get_vocab_embedding_cls.cls = @AdaptiveVocabEmbedding
AdaptiveVocabEmbedding.clusters = [
    {{'token_count': 16, 'embedding_size': 16}},
    {{'token_count': 8, 'embedding_size': 6}},
    {{'token_count': 16, 'embedding_size': 4}}]
""",
    "adaptive_softmax": f"""{CLUSTERS}
get_vocab_embedding_cls.cls = @AdaptiveSoftmaxVocabEmbedding
AdaptiveSoftmaxVocabEmbedding.clusters = [
    {{'token_count': 16}},
    {{'token_count': 8, 'embedding_size': 6}},
    {{'token_count': 16, 'embedding_size': 4}}]
decoder/Unitransformer.loss_fn = @adaptive_softmax_loss_fn
""",
    "evolved_transformer": """
encoder/make_layer_stack.layers = [
    @GatedLinearUnitLayer, @EncoderConvolutionalLayer, @SelfAttention, @DenseReluDense]
decoder/make_layer_stack.layers = [
    @DecoderAttentionLayer, @DecoderConvolutionalLayer, @SelfAttention, @EncDecAttention,
    @DenseReluDense]
decoder/DenseReluDense.activation = 'swish'
EncoderConvolutionalLayer.d_model = 16
EncoderConvolutionalLayer.dropout_rate = 0.0
DecoderConvolutionalLayer.d_model = 16
DecoderConvolutionalLayer.dropout_rate = 0.0
DecoderAttentionLayer.base_num_heads = 2
""",
    "funnel_of_mean": """
encoder/make_layer_stack.layers = [@SelfAttention, @DenseReluDense]
encoder/make_layer_stack.num_layers = 4
decoder/make_layer_stack.layers = [@SelfAttention, @EncDecAttention]
encoder/make_layer_stack.layer_stack_cls = @FunnelTransformerLayerStack
encoder/SelfAttention.relative_attention_type = 'bias_shared'
encoder/SelfAttention.relative_attention_num_buckets = 8
FunnelTransformerLayerStack.n_blocks = 3
FunnelTransformerLayerStack.block_param_size = [1, 2, 1]
FunnelTransformerLayerStack.block_repeat_size = [1, 1, 1]
FunnelTransformerLayerStack.sublayers_initial = []
FunnelTransformerLayerStack.sublayers_per_layer = [
    @sublayer_rms_norm, @sublayer_call_layer, @sublayer_residual]
FunnelTransformerLayerStack.sublayers_final = [@sublayer_rms_norm]
""",
}


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


def _write_run(case: ReferenceCase, text: str, folder: pathlib.Path) -> None:
    (folder / "operative_config.gin").write_text(CONFIG + text)
    weights = {_original_name(name, case): x for name, x in case.with_role("w").items()}
    weights["global_step"] = np.asarray(3, np.int64)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt-3"),
        tensor_names=list(weights),
        shape_and_slices=[""] * len(weights),
        tensors=[tf.constant(value) for value in weights.values()],
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_model_has_the_logits_of_the_original(
    name: str, tmp_path: pathlib.Path
) -> None:
    case: Any = CASES[name]
    source = tmp_path / "source"
    source.mkdir()
    _write_run(case, CONFIGS[name], source)
    flags = ["--partial"] if name == PARTIAL else []
    training = restore(import_run(source, tmp_path / "run", *flags))
    model, mesh = training.state.model, training.state.mesh
    assert isinstance(model, TokenModel)
    features = {feature: case.arrays[f"in/{feature}"] for feature in ("inputs", "targets")}
    logits = mtf.to_numpy(mtf.function(model.logits)(on_mesh(mesh, features)))
    if name == "adaptive_softmax":
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    is_token = features["targets"] != 0
    assert_close(
        logits[is_token], case.arrays["out/logits_eval"][is_token], FLOAT32_MODEL_TOLERANCE
    )
