"""Configurations: what their gin files say, and what is refused by name."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from mtfrun.configuration.gin_writer import GinFile
from mtfrun.experiment.conversion.importer import ConversionError
from mtfrun.extras.huggingface.families.encoder_decoders.t5 import SOFTMAX
from mtfrun.extras.huggingface.families.encoders.bert import Bert
from mtfrun.extras.huggingface.families.registry import family_of
from mtfrun.extras.huggingface.family import Blocks
from mtfrun.extras.huggingface.importer import read_folder
from mtfrun.extras.huggingface.tables.settings import Settings
from tests.faults.fuzzing import CPU_SECS, cpu_limit
from tests.oracle.packed import hugging_face_folders

LLAMA = {
    **{"model_type": "llama", "vocab_size": 160, "hidden_size": 32, "intermediate_size": 48},
    **{"num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 64},
}
MISTRAL = {**LLAMA, "model_type": "mistral"}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 6}
QWEN2 = {**LLAMA, "model_type": "qwen2"}
QWEN3 = {**LLAMA, "model_type": "qwen3"}
QWEN3_MOE = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 6}
PHI3 = {**LLAMA, "model_type": "phi3"}
SMOLLM3 = {**LLAMA, "model_type": "smollm3"}
GEMMA = {**LLAMA, "model_type": "gemma"}
GEMMA2 = {**LLAMA, "model_type": "gemma2"}
GEMMA3 = {**LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 12}
GRANITE = {**LLAMA, "model_type": "granite", "attention_multiplier": 0.125}
STABLELM = {**LLAMA, "model_type": "stablelm"}
COHERE = {**LLAMA, "model_type": "cohere"}
OLMOE = {**LLAMA, "model_type": "olmoe"}
DEEPSEEK = {**LLAMA, "model_type": "deepseek_v3"}
PHI = {**LLAMA, "model_type": "phi"}
GPT_NEOX = {**LLAMA, "model_type": "gpt_neox"}
OPT = {**LLAMA, "model_type": "opt", "ffn_dim": 48}
GPTJ = {"model_type": "gptj", "vocab_size": 160, "n_embd": 32, "n_head": 4, "n_layer": 2}
GPT2 = {"model_type": "gpt2", "vocab_size": 160, "n_embd": 32, "n_head": 4, "n_layer": 2}
# As BLOOM's first folders name their sizes.
BLOOM = {
    **{"model_type": "bloom", "vocab_size": 160, "n_embed": 32},
    **{"num_attention_heads": 4, "num_hidden_layers": 4},
}
GPT_NEO = {
    **{"model_type": "gpt_neo", "vocab_size": 160, "hidden_size": 32, "num_heads": 4},
    **{"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
}
BERT = {**LLAMA, "model_type": "bert"}
ROBERTA = {**LLAMA, "model_type": "roberta"}
MODERNBERT = {**LLAMA, "model_type": "modernbert"}


T5 = {
    **{"model_type": "t5", "vocab_size": 110, "d_model": 24, "d_kv": 8, "d_ff": 40},
    **{"num_layers": 2, "num_heads": 3, "pad_token_id": 0, "decoder_start_token_id": 0},
}
SWITCH = {
    **{**T5, "model_type": "switch_transformers", "num_experts": 4, "expert_capacity": 64},
    **{"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1},
}
LONGT5 = {**T5, "model_type": "longt5", "encoder_attention_type": "transient-global"}
# A separate softmax; there are no more layers than tensors.
WITH_SOFTMAX = frozenset([SOFTMAX, *map(str, range(8))])


def _gin(values: dict[str, Any], tensors: frozenset[str] = frozenset()) -> str:
    """Returns the text of the gin file of a configuration."""
    file = GinFile(["A model."])
    family_of(Settings(values, tensors=tensors)).write_gin(file)
    return file.text()


def _rotary(**parameters: Any) -> dict[str, Any]:
    return {**LLAMA, "rope_parameters": {"rope_theta": 10000.0, **parameters}}


LAYERS = """transformer.Stack:
    layers = [
        @transformer.SelfAttention,
        @transformer.GatedFeedForward,
        @transformer.LocalSelfAttention,
        @transformer.GatedFeedForward,
    ]
"""


@pytest.mark.parametrize(
    "values, lines",
    [
        (LLAMA, ["NUM_MEMORY_HEADS = 4", "D_KV = 8", "ROTARY_BASE = 10000.0"]),
        ({**LLAMA, "head_dim": 12, "num_key_value_heads": 2}, ["D_KV = 12", "MEMORY_HEADS = 2"]),
        (
            {**LLAMA, "rope_scaling": {"type": "linear", "factor": 2}},
            ["scaling = @huggingface.LinearScaling()", "factor = 2.0"],
        ),
        (
            {
                **_rotary(
                    rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0
                ),
                "original_max_position_embeddings": 16,
            },
            ["scaling = @huggingface.Llama3Scaling()", "original_length = 16"],
        ),
        (
            _rotary(rope_type="yarn", factor=None, original_max_position_embeddings=16),
            ["scaling = @huggingface.YarnScaling()", "factor = 4.0", "whole_pairs = True"],
        ),
        ({**LLAMA, "attention_bias": True}, ["use_bias = True", "use_output_bias = True"]),
        ({**LLAMA, "mlp_bias": True, "hidden_act": "gelu"}, ["activation = @mtf.exact_gelu"]),
        ({**LLAMA, "max_position_embeddings": 131072}, ["SEQUENCE_LENGTH = 1024"]),
        # What transformers takes where a configuration says nothing.
        (MISTRAL, ["window = 4096"]),
        (MIXTRAL, ["NUM_EXPERTS = 6", "EXPERTS_PER_TOKEN = 2", "ROTARY_BASE = 1000000.0"]),
        ({**MIXTRAL, "router_jitter_noise": 0.1}, ["@moe.Jitter()", "epsilon = 0.1"]),
        ({**MIXTRAL, "hidden_act": "gelu"}, ["activations = [@mtf.exact_gelu, None]"]),
        (
            {**MIXTRAL, "output_router_logits": True, "router_aux_loss_coef": 0.5},
            ["BALANCE_LOSS = 0.25  # for each layer"],
        ),
        (
            {**QWEN2, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
            ["NUM_LAYERS = 1  # each of 4 layers", "window = 5"],
        ),
        (
            {
                **QWEN2,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"] * 2,
            },
            ["NUM_LAYERS = 2  # each of 2 layers", LAYERS, "window = 4096"],
        ),
        (BERT, ["NUM_TYPES = 2", "max_length = 64", 'include "data/masked_lm.gin"']),
        ({**ROBERTA, "pad_token_id": 0}, ["max_length = 63", "offset = 1"]),
        (
            {
                **BERT,
                "architectures": ["BertForSequenceClassification"],
                "id2label": {"0": "good", "1": "bad"},
            },
            ["LABELS = ['good', 'bad']", "own_softmax = True", "activation = @mtf.tanh"],
        ),
        (MODERNBERT, ["window = 65", "ROTARY_BASE = 160000.0", "LOCAL_ROTARY_BASE = 10000.0"]),
        (
            {
                **MODERNBERT,
                "architectures": ["ModernBertForSequenceClassification"],
                "classifier_pooling": "mean",
            },
            ["@transformer.MeanOverLength,", "LABELS = ['LABEL_0', 'LABEL_1']"],
        ),
        (QWEN3, ["D_KV = 128"]),
        (QWEN3_MOE, ["NUM_EXPERTS = 6", "EXPERT_D_FF = 768", "normalise = False"]),
        (
            {**QWEN3_MOE, "mlp_only_layers": [0], "decoder_sparse_step": 2},
            [
                "NUM_LAYERS = 2  # each of 2 layers",
                "@transformer.GatedFeedForward,\n        @transformer.SelfAttention",
            ],
        ),
        (
            {**QWEN2, "model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3},
            ["EXPERT_D_FF = 1408", "SHARED_D_FF = 5632", "EXPERTS_PER_TOKEN = 3"],
        ),
        (
            {**PHI3, "partial_rotary_factor": 0.5, "resid_pdrop": 0.1},
            ["ROTATED = 4", "DROPOUT_RATE = 0.1"],
        ),
        (SMOLLM3, ["NUM_LAYERS = 1  # each of 4 layers", "ROTARY_BASE = 2000000.0"]),
        (
            {**SMOLLM3, "no_rope_layers": [1, 0, 1, 0], "tie_word_embeddings": False},
            ["NUM_LAYERS = 2", "@no_positions/transformer.SelfAttention", "tied_softmax = False"],
        ),
        (GEMMA, ["D_KV = 256", "SEQUENCE_LENGTH = 64"]),
        (
            {**GEMMA2, "query_pre_attn_scalar": 64, "final_logit_softcapping": None},
            ["LOGITS_CAP = None", "scaled_logits = 0.125"],
        ),
        (
            {**GEMMA3, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
            [
                "NUM_LAYERS = 2  # each of 6 layers",
                *("ROTARY_BASE = 1000000.0", "LOCAL_ROTARY_BASE = 10000.0"),
                "transformer.RotaryPositions:\n    scaling = @huggingface.LinearScaling()",
                "rotary = @local/transformer.RotaryPositions()",
            ],
        ),
        (
            {**GRANITE, "logits_scaling": 8.0},
            ["ATTENTION_FACTOR = 0.125", "LOGITS_FACTOR = 0.125", "RESIDUAL_FACTOR = 1.0"],
        ),
        (STABLELM, ["ROTATED = 2", "NORM_EPSILON = 1e-05"]),
        (
            {**STABLELM, "use_parallel_residual": True, "qk_layernorm": True},
            ["layers = [@huggingface.Parallel]", "norm_heads = 'apart'", "use_bias = False"],
        ),
        (COHERE, ["LOGITS_FACTOR = 0.0625"]),
        (
            {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
            ["d_embedding = 16", "@transformer.Residual,\n        @transformer.LayerNorm,\n    ]"],
        ),
        ({**OLMOE, "num_experts": 5}, ["NUM_EXPERTS = 5", "EXPERTS_PER_TOKEN = 8"]),
        (
            {**DEEPSEEK, "first_k_dense_replace": 1, "n_shared_experts": 3},
            ["D_QUERY_LATENT = 1536", "SHARED_D_FF = 6144", "num_groups = 8"],
        ),
        ({**DEEPSEEK, "q_lora_rank": None}, ["D_QUERY_LATENT = None"]),
        (PHI, ["ROTATED = 4", "NUM_MEMORY_HEADS = 4"]),
        ({**GPT_NEOX, "rotary_pct": 1.0, "rotary_emb_base": 7}, ["ROTATED = None", "BASE = 7.0"]),
        (
            {**GPT_NEOX, "use_parallel_residual": False, "attention_bias": False},
            ["@transformer.Residual", "layers = [@transformer.SelfAttention", "use_bias = False"],
        ),
        (BLOOM, ["NUM_LAYERS = 4", "D_MODEL = 32", "NUM_HEADS = 4"]),
        (GPT2, ["D_FF = 128", "DROPOUT_RATE = 0.1", "max_length = 1024"]),
        ({**GPT2, "attn_pdrop": 0.0}, ["ATTENTION_DROPOUT_RATE = 0.0"]),
        (
            {**GPT2, "n_embd": 64, "scale_attn_by_inverse_layer_idx": True},
            [
                *("NUM_LAYERS = 1  # each of 2 layers", "@layer_1/transformer.SelfAttention,"),
                "layer_1/transformer.AttentionHeads:\n    scaled_logits = 0.125",
            ],
        ),
        (GPT_NEO, ["NUM_LAYERS = 2  # each of 2 layers", "window = 256"]),
    ],
)
def test_a_gin_file_says_what_a_configuration_says(
    values: dict[str, Any], lines: list[str]
) -> None:
    text = _gin(values)
    for line in lines:
        assert line in text, text


def test_a_model_without_windows_has_the_layers_of_its_gin_file() -> None:
    for values in (LLAMA, {**MISTRAL, "sliding_window": None}, MIXTRAL, QWEN2, GPT2):
        assert "layers" not in _gin(values)


@pytest.mark.parametrize(
    "values, message",
    [
        (
            _rotary(rope_type="proportional"),
            "supported: default, linear, llama3, yarn, dynamic, lo",
        ),
        (_rotary(rope_type="dynamic"), "rope_parameters has no factor"),
        (
            _rotary(rope_type="longrope", short_factor=[0]),
            r"short_factor=\[0\] must be numbers abo",
        ),
        ({**LLAMA, "rope_scaling": {"type": "ntk"}}, "rope_scaling=.*'ntk'.* not supported"),
        (_rotary(full_attention={"rope_type": "default"}), "must be the parameters of all layers"),
        (_rotary(rope_type="default", partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        ({**LLAMA, "hidden_act": "xielu"}, "hidden_act='xielu' is not supported; supported: relu"),
        ({**LLAMA, "num_attention_heads": 0}, "num_attention_heads=0 must be an integer"),
        (
            {**QWEN2, "use_sliding_window": True, "layer_types": ["chunked_attention"] * 4},
            "layer_types=.* must be a list of full_attention and sliding_attention",
        ),
        (
            {**QWEN2, "use_sliding_window": True, "layer_types": ["full_attention"]},
            "layer_types=.* must have 4 entries",
        ),
        ({**PHI3, "rope_scaling": {"type": "su"}}, "rope_scaling has no short_factor"),
        ({**PHI3, "partial_rotary_factor": 0.1}, "must be an even share of 8, the size of a head"),
        ({**PHI, "head_dim": 16}, "head_dim=16 is not supported; supported: 8"),
        ({**SMOLLM3, "no_rope_layers": [1]}, "no_rope_layers=.* must have 4 entries"),
        ({**SMOLLM3, "no_rope_layers": [2] * 4}, "must be a list of 1, with positions, and 0"),
        ({**GEMMA, "use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ({**GRANITE, "attention_multiplier": 0.0}, r"attention_multiplier=0\.0 must not be 0"),
        ({**OLMOE, "clip_qkv": 8.0}, r"clip_qkv=8\.0 is not supported"),
        ({**DEEPSEEK, "num_key_value_heads": 2}, "num_key_value_heads=2 is not supported"),
        ({**DEEPSEEK, "qk_rope_head_dim": 3}, "qk_rope_head_dim=3 must be even: pairs rotate"),
        ({**GPTJ, "rotary_dim": 16}, "rotary_dim=16 must be even and at most 8"),
        ({**QWEN3_MOE, "mlp_only_layers": "all"}, "mlp_only_layers='all' must be a list"),
        (
            {**OPT, "word_embed_proj_dim": 16, "tie_word_embeddings": False},
            "word_embed_proj_dim=16 is not supported beside a softmax that is not the embedding's",
        ),
        ({**OPT, "enable_bias": False}, "enable_bias=False is not supported; supported: True"),
        ({**GPT2, "add_cross_attention": True}, "add_cross_attention=True is not supported"),
        ({**GPT2, "n_head": 5}, "n_head=5 must divide 32"),
        ({**GPT_NEO, "attention_types": [["local"]]}, "attention_types=.* must be a list of"),
        ({**GPT_NEO, "attention_types": [[["axial"], 4]]}, "must be of the kinds global and local"),
        ({**GPT_NEO, "num_layers": 5}, "attention_types=.* must describe 5 layers"),
        ({**BERT, "position_embedding_type": "relative_key"}, "relative_key' is not supported"),
        ({**BERT, "is_decoder": True}, "is_decoder=True is not supported; supported: False"),
        ({**BERT, "architectures": ["BertForMultipleChoice"]}, "supported: BertForMaskedLM"),
        ({**ROBERTA, "max_position_embeddings": 2}, "max_position_embeddings=2 has no position"),
        (
            {
                **MODERNBERT,
                "architectures": ["ModernBertForSequenceClassification"],
                "classifier_pooling": "max",
            },
            "classifier_pooling='max' is not supported; supported: 'cls', 'mean'",
        ),
        ({**LONGT5, "encoder_attention_type": "all"}, "supported: 'local', 'transient-global'"),
        ({**LONGT5, "feed_forward_proj": "gated-mish"}, "feed_forward_proj='gated-mish' .* relu, "),
        ({**LLAMA, "quantization_config": {}}, "quantization_config=.* is not supported"),
        (
            {**LLAMA, "architectures": ["LlamaForTokenClassification"]},
            "LlamaForCausalLM; import the model without this head",
        ),
        ({**LLAMA, "is_causal": False}, "is_causal=False is not supported: for text embeddings"),
        ({**LLAMA, "use_bidirectional_attention": True}, "for text embeddings import an encoder"),
        ({**LLAMA, "model_type": "lama"}, "is not supported, did you mean 'llama'"),
        ({**LLAMA, "model_type": "llama4"}, "is not supported: docs/extras/huggingface.md has"),
        (
            {**LLAMA, "model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}},
            "reads more than texts, which is not supported: save its text model, gemma3_text",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        _gin(values)


def test_sizes_that_no_tensor_has_cost_no_memory() -> None:
    for values in (
        {**DEEPSEEK, "qk_rope_head_dim": 2**40},
        {**COHERE, "head_dim": 2**40},
        {**STABLELM, "qk_layernorm": True, "num_key_value_heads": 2**40},
    ):
        settings = Settings(values, tensors=WITH_SOFTMAX)
        with cpu_limit(CPU_SECS), contextlib.suppress(ConversionError):
            family_of(settings).table()


@pytest.mark.parametrize(
    "values, setting",
    [
        ({**T5, "scale_decoder_outputs": True}, "scale_decoder_outputs=True"),
        ({**T5, "tie_word_embeddings": True}, "scale_decoder_outputs=None"),
        ({**SWITCH, "tie_word_embeddings": True}, "tie_word_embeddings=True"),
    ],
)
def test_a_softmax_of_its_own_is_neither_tied_nor_scaled(
    values: dict[str, Any], setting: str
) -> None:
    with pytest.raises(ConversionError, match=f"{setting} scales the logits"):
        _gin(values, WITH_SOFTMAX)
    unscaled = {**values, "tie_word_embeddings": False, "scale_decoder_outputs": False}
    assert "tied_softmax = False" in _gin(unscaled, WITH_SOFTMAX)


def test_a_note_says_that_no_token_is_dropped() -> None:
    notes = read_folder(hugging_face_folders() / "switch").notes
    assert any("transformers drops the further tokens of an expert" in note for note in notes)


@pytest.mark.parametrize(
    "tensor, is_alone",
    [
        ("embeddings.word_embeddings.weight", True),
        ("bert.embeddings.word_embeddings.weight", False),
    ],
)
def test_tensors_without_a_prefix_are_a_model_without_a_head(tensor: str, is_alone: bool) -> None:
    family = family_of(Settings({**BERT, "num_hidden_layers": 1}, tensors=frozenset({tensor})))
    assert isinstance(family, Bert) and family.is_headless == is_alone


@pytest.mark.parametrize(
    "windows, size",
    [([0], 1), ([1, 1, 1], 1), ([0, 1, 0, 1], 2), ([0, 0, 1], 3), ([0, 1, 1, 0, 1, 1], 3)],
)
def test_blocks_have_as_few_layers_as_make_them_equal(windows: list[int], size: int) -> None:
    assert Blocks.of_windows(windows, "transformer.FeedForward").layers_of_block == size


def test_layers_have_the_paths_of_their_sublayers() -> None:
    blocks = Blocks.of_windows([None, 8, None, 8], "transformer.FeedForward")
    assert blocks.paths(3) == [
        "decoder_stack/blocks/1/local_self_attention",
        "decoder_stack/blocks/1/feed_forward_1",
    ]
    assert Blocks.of_windows([None, None], "transformer.FeedForward").paths(1) == [
        "decoder_stack/blocks/1/self_attention",
        "decoder_stack/blocks/1/feed_forward",
    ]
