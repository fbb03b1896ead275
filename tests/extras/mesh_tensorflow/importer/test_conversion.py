"""Gin files of Mesh TensorFlow and T5: what is written, and what becomes of every binding."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mtfrun.experiment.conversion import ConversionError
from mtfrun.experiment.conversion.importer import Imported
from mtfrun.extras.mesh_tensorflow.importer.importer import read_run
from tests.cli.command import error_line, mtfrun_here

LINE = 100
# The smallest encoder-decoder of the form of T5.
SMALL = """
Unitransformer.positional_embedding = False
SelfAttention.relative_attention_type = 'bias_shared'
get_variable_dtype.activation_dtype = 'float32'
num_layers = 2
d_model = 16
d_ff = 32
num_heads = 2
d_kv = 8
"""
GATED = "DenseReluDense.activation = ['gelu', 'linear']\n"
SCHEDULES = "mesh_tensorflow.transformer.learning_rate_schedules"


DENOISE = (
    "preprocessors.unsupervised.preprocessors = [@preprocessors.denoise]\n"
    "preprocessors.denoise.noise_mask_fn = @preprocessors.iid_noise_mask\n"
)


BY_EXPERTS = (
    "encoder/make_layer_stack.layers = [@ExpertsSelfAttention, @MoE1D]\n"
    "ExpertsSelfAttention.num_experts = 8\nExpertsSelfAttention.hidden_size = 24\n"
)


def _imported(text: str, tmp_path: pathlib.Path, *, partial: bool = False) -> Imported:
    path = tmp_path / "model.gin"
    path.write_text(SMALL + text)
    return read_run(path, partial=partial)


def _lists(imported: Imported) -> Any:
    return imported.record["bindings"]


def _text(imported: Imported) -> str:
    return imported.config(pathlib.Path("/run"))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ['include "models/t5.1.0.gin"', "NUM_LAYERS = 2", "D_KV = 8"]),
        (GATED, ['include "models/t5.1.1.gin"', "tied_softmax = True"]),
        ("d_model = 64\n", ["D_MODEL = 64"]),
        (
            "encoder/make_layer_stack.num_layers = 3\n",
            ["NUM_LAYERS = 3", "decoder/transformer.Stack:\n    num_layers = 2"],
        ),
        (
            "decoder/DenseReluDense.hidden_size = 64\n",
            ["decoder/transformer.FeedForward:\n    d_ff = 64"],
        ),
        (
            "Unitransformer.ensemble = 4\nrun.mesh_shape = 'ensemble:4,batch:2,model:1'\n"
            "reduce_ensemble_logits.reduce_fn = @transformer.reduce_ensemble_logits_mean_logit\n",
            [
                "experiment.Experiment:\n    model = @zoo.make_ensemble\n",
                "    model = @transformer.EncoderDecoder\n    size = 4\n    average = 'logits'\n",
                "LAYOUT = 'ensemble:ensemble;batch:batch;",
            ],
        ),
        ("Unitransformer.loss_denominator = 233472\n", ["denominator = 233472.0"]),
        ("decoder/Unitransformer.label_smoothing = 0.1\n", ["label_smoothing = 0.1"]),
        ("run.sequence_length = {'inputs': 64, 'targets': 30}\n", ["TARGETS_LENGTH = 30"]),
        ("run.mesh_shape = 'rows:4,model:2'\n", ["MESH_SHAPE = 'rows:4,model:2'"]),
        (
            "run.batch_size = ('tokens_per_batch', 65536)\n",
            ["BATCH_SIZE = 128", "MICROBATCHES = 32"],
        ),
        ("run.learning_rate_schedule = 0.001\n", ["factors = [%LEARNING_RATE]"]),
        (
            f"run.learning_rate_schedule = [@{SCHEDULES}.linear_warmup, 0.5]\n"
            "linear_warmup.steps_or_fraction = 200\n",
            ["WARMUP_STEPS = 200", "factors = [%LEARNING_RATE, @optim.LinearWarmup()]"],
        ),
        (
            f"run.learning_rate_schedule = [@{SCHEDULES}.linear_warmup]\nrun.train_steps = 2e3\n"
            "linear_warmup.steps_or_fraction = 0.06\n",
            ["WARMUP_STEPS = 120\n", "TRAIN_STEPS = 2000\n"],
        ),
        (
            f"run.learning_rate_schedule = [@{SCHEDULES}.slanted_triangular]\n",
            ["from mtfrun.extras.mesh_tensorflow import zoo", "zoo.SlantedTriangular:"],
        ),
        ("learning_rate_schedule_noam.warmup_steps = 10000.0\n", ["WARMUP_STEPS = 10000\n"]),
        (
            "learning_rate_schedule_noam.offset = 1000\nrun.train_steps = 3000\n",
            ["start_step = 1000", "total_steps = 2000"],
        ),
        (
            "run.optimizer = @optimize.AdamWeightDecayOptimizer\n"
            "AdamWeightDecayOptimizer.weight_decay_rate = 0.1\n"
            "AdamWeightDecayOptimizer.exclude_from_weight_decay = ['norm', '^encoder.*/q$']\n",
            ["optim.Adam:", "weight_decay = 0.1", "bias_correction = False", "attention/query$"],
        ),
        (
            "run.optimizer = @optimize.MomentumOptimizer\nMomentumOptimizer.momentum = 0.8\n",
            ["optim.Momentum:", "momentum = 0.8", "delayed = True"],
        ),
        ("run.variable_filter = 'DenseReluDense'\n", ["frozen = [", "embedding/table$"]),
        (
            "run.variable_filter = 'block_000/layer_000'\n",
            [
                "'^encoder_stack/blocks/1/self_attention/norm/scale$'",
                r"'^encoder_stack/blocks/\\d+/feed_forward/'",
            ],
        ),
        (
            "Bitransformer.decode.beam_size = 4\nbeam_search.stop_early = False\n",
            ["decoding.Search:\n    beam_size = 4\n    stop_early = False"],
        ),
        (
            "Bitransformer.decode.decode_length_multiplier = 2.0\n"
            "decode.decode_length_constant = 7\nBitransformer.decode.decode_length_constant = 5\n"
            "Bitransformer.decode.max_decode_length = 64\n",
            ["decode_length = 64", "decode_length_multiplier = 2.0", "decode_length_constant = 5"],
        ),
        (
            "EncDecAttention.num_memory_heads = 1\n",
            [
                "    heads = @encoder_attention/transformer.AttentionHeads()",
                "encoder_attention/transformer.AttentionHeads:\n    num_memory_heads = 1\n"
                "    num_heads = 2\n    d_kv = 8\n",
            ],
        ),
        (
            "SelfAttention.num_memory_heads = 1\ndecoder/EncDecAttention.num_memory_heads = 0\n",
            ["encoder_attention/transformer.AttentionHeads:\n    num_memory_heads = None\n"],
        ),
        (
            "SelfAttention.shared_kv = True\ndecoder/EncDecAttention.shared_kv = False\n"
            "decoder/SelfAttention.attention_kwargs = {'extra_logit': 0.0}\n",
            [
                "\ntransformer.AttentionHeads:\n    shared_kv = True\n",
                "\ndecoder/transformer.AttentionHeads:\n    extra_logit = 0.0\n",
                "encoder_attention/transformer.AttentionHeads:\n    num_heads = 2\n"
                "    d_kv = 8\n    shared_kv = False\n    extra_logit = 0.0\n",
            ],
        ),
        (
            "decoder/SelfAttention.num_memory_heads = 1\n",
            ["\ndecoder/transformer.AttentionHeads:\n    num_memory_heads = 1\n"],
        ),
        (
            "run.model_type = 'lm'\nmake_layer_stack.layers = [@LocalSelfAttention, @MoE2D]\n"
            "LocalSelfAttention.num_heads = %num_heads\nMoE2D.expert_x = 4\n"
            "LocalSelfAttention.key_value_size = %d_kv\n"
            "SelfAttention.relative_attention_type = None\n",
            [
                "    heads = @transformer.AttentionHeads()\n",
                "moe.MoE2D:\n    num_experts = [4, 8]\n",
            ],
        ),
        ("EncDecAttention.dropout_rate = 0.3\n", ["EncoderDecoderAttention:\n    dropout_rate"]),
        (
            "encoder/make_layer_stack.layers = [@TalkingHeadsSelfAttention]\n"
            "decoder/make_layer_stack.layers = [\n"
            "    @TalkingHeadsSelfAttention, @TalkingHeadsEncDecAttention]\n"
            "TalkingHeadsSelfAttention.key_heads_dims = [('key_heads', %num_heads)]\n"
            "TalkingHeadsSelfAttention.softmax_heads_dims = [('heads', 6)]\n"
            "TalkingHeadsSelfAttention.relative_attention_type = 'bias_shared'\n"
            "TalkingHeadsSelfAttention.dynamic_projections = ['x2l', 'm2w']\n"
            "TalkingHeadsEncDecAttention.value_size = 8\n",
            [
                "    key_heads = [('key_heads', 2)]\n    softmax_heads = [('heads', 6)]",
                "dynamic_logits = ['query']",
                "dynamic_weights = ['memory']",
                "NUM_HEADS = 6",
                "D_KV = 1  # no layer of this model uses it",
                "    heads = @encoder_attention/zoo.TalkingHeads()",
            ],
        ),
        (
            "encoder/make_layer_stack.layers = [@SelfAttention, @DenseReluDense,\n"
            "    ('task_adapter', @task_adapter/DenseReluDense)]\n"
            "task_adapter/DenseReluDense.hidden_size = 8\n"
            "run.variable_filter = 'task_adapter'\n",
            [
                "encoder_task_adapter/transformer.FeedForward:\n    d_ff = 8\n",
                r"'^encoder_stack/blocks/\\d+/feed_forward_0/',",
                r"'^decoder_stack/blocks/\\d+/feed_forward/',",
                "strict = False",
            ],
        ),
        (
            "get_vocab_embedding_cls.cls = @FactorizedVocabEmbedding\n"
            "FactorizedVocabEmbedding.inner_dimension_size = 8\n"
            "AdafactorOptimizer.exclude_from_parameter_scale = ['shared/embedding']\n",
            ["    cutoffs = []\n    d_embedding = [8]\n", r"'^embedding/clusters/\\d+/table$'"],
        ),
        (
            f"{DENOISE}preprocessors.denoise.noise_density = 0.15\n"
            "preprocessors.denoise.inputs_fn = @preprocessors.drop_noise_tokens\n"
            "preprocessors.denoise.targets_fn = @preprocessors.drop_nonnoise_tokens\n",
            ["data.IidDenoising:\n    with_sentinels = False"],
        ),
        (
            f"{DENOISE}preprocessors.denoise.noise_density = 1.0\n"
            "preprocessors.denoise.inputs_fn = @preprocessors.permute_noise_tokens\n",
            ["OBJECTIVE = @data.Deshuffling()"],
        ),
        ("run.model_type = 'lm'\n", ['include "models/transformer.gin"', "num_heads = %NUM_HEADS"]),
        (
            "run.model_type = 'delimited_lm'\nUnitransformer.input_full_attention = True\n",
            ["prefix = True", 'include "data/delimited_pairs.gin"'],
        ),
        (
            "run.train_dataset_fn = @t5.models.mesh_transformer.mesh_train_dataset_fn\n"
            "mesh_train_dataset_fn.mixture_or_task_name = 'glue_cola_v002'\n",
            [
                "glue_cola_v002",
                "TRAINING_DATA = @data.NoSource()",
                "behind this one: --gin_file=extras/t5/tasks/glue_cola.gin\n",
            ],
        ),
        (
            "run.train_dataset_fn = @t5.models.mesh_transformer.mesh_train_dataset_fn\n"
            "mesh_train_dataset_fn.mixture_or_task_name = 'super_glue_v102_proportional'\n",
            ["behind this one: --gin_file=extras/t5/tasks/super_glue.gin\n"],
        ),
    ],
)
def test_the_written_file_says_what_differs(
    text: str, lines: list[str], tmp_path: pathlib.Path
) -> None:
    imported = _imported(text, tmp_path)
    assert not _lists(imported)["not supported"]
    written = _text(imported)
    for line in lines:
        assert line in written, written
    # What the included files say is not said again.
    assert "@transformer.EncoderDecoderAttention" not in written
    assert all(len(line) <= LINE for line in written.splitlines() if not line.startswith("#"))


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (
            "SelfAttention.attention_kwargs = {'z_loss_coeff': 1e-4}\n",
            "SelfAttention.attention_kwargs",
            "only extra_logit, a number",
        ),
        (
            "decoder/make_layer_stack.layers = [@SelfAttention, @LocalSelfAttention]\n"
            "SelfAttention.shared_kv = True\n",
            "decoder/make_layer_stack.layers",
            "differ in transformer.AttentionHeads.shared_kv",
        ),
        ("decoder/Unitransformer.ensemble = 2\n", "encoder/Unitransformer.ensemble", "differ"),
        ("run.ensemble_inputs = 2\n", "run.ensemble_inputs", "same inputs"),
        (
            "Unitransformer.ensemble = 2\n"
            "reduce_ensemble_logits.reduce_fn = @reduce_ensemble_logits_select\n",
            "reduce_ensemble_logits.reduce_fn",
            "only reduce_ensemble_logits_mean_prob",
        ),
        ("SelfAttention.colour = 1\n", "SelfAttention.colour", "unknown parameter"),
        ("mine.Layer.size = 1\n", "Layer.size", "unknown class"),
        ("run.optimizer = @mine.Optimizer\n", "run.optimizer", "Optimizer is not supported"),
        (
            "decoder/make_layer_stack.layers = [@Conv1DLayer]\n"
            "Conv1DLayer.filter_size = 3\nConv1DLayer.output_size = 16\n",
            "decoder/make_layer_stack.layers",
            "sees later positions",
        ),
        (
            "decoder/make_layer_stack.layers = [@SelfAttention, @TransparentEncDecAttention]\n"
            "TransparentEncDecAttention.layers_per_encoder_module = 1\n",
            "TransparentEncDecAttention.layers_per_encoder_module",
            "one mixture for every block",
        ),
        (
            "decoder/make_layer_stack.layers = [@DecoderAttentionLayer]\n"
            "DecoderAttentionLayer.base_num_heads = 2\n",
            "SelfAttention.relative_attention_type",
            "not supported in this layer",
        ),
        (
            "encoder/make_layer_stack.layers = [@SeparableConv1DLayer]\n"
            "SeparableConv1DLayer.max_relative_pos = 1\nSeparableConv1DLayer.output_size = 16\n",
            "encoder/SeparableConv1DLayer.min_relative_pos",
            "no value",
        ),
        (
            "encoder/make_layer_stack.layers = [({'colour': 1}, @SelfAttention)]\n",
            "encoder/make_layer_stack.layers",
            "SelfAttention has no argument colour",
        ),
        (
            f"{BY_EXPERTS}ExpertsSelfAttention.shared_kv = True\n",
            "encoder/make_layer_stack.layers",
            "attends to itself alone",
        ),
        (
            "decoder/make_layer_stack.layers = [@SelfAttention, @ExpertsEncDecAttention]\n",
            "decoder/make_layer_stack.layers",
            "does not read the encoder",
        ),
        (
            "encoder/make_layer_stack.layers = [@HeterogeneousMoE1D]\n"
            "HeterogeneousMoE1D.moe_num_layers = 2\n",
            "HeterogeneousMoE1D.moe_num_layers",
            "no dropout between",
        ),
        (
            "get_vocab_embedding_cls.cls = @AdaptiveSoftmaxVocabEmbedding\n"
            "AdaptiveSoftmaxVocabEmbedding.clusters = [{'token_count': 64},\n"
            "    {'token_count': 320, 'length_projection_factor': 0.5}]\n"
            "decoder/Unitransformer.loss_fn = @adaptive_softmax_loss_fn\n",
            "AdaptiveSoftmaxVocabEmbedding.clusters",
            "leaves out targets",
        ),
        (
            "get_vocab_embedding_cls.cls = @AdaptiveSoftmaxVocabEmbedding\n"
            "AdaptiveSoftmaxVocabEmbedding.clusters = [\n"
            "    {'token_count': 64}, {'token_count': 320}]\n",
            "decoder/Unitransformer.loss_fn",
            "trained with adaptive_softmax_loss_fn",
        ),
        (
            "AdafactorOptimizer.exclude_from_parameter_scale = [1]\n",
            "AdafactorOptimizer.exclude_from_parameter_scale",
            "not a list of texts",
        ),
        (
            "LayerStack.sublayers_final = [@transformer.sublayer_scale_norm]\n",
            "LayerStack.sublayers_final",
            "sublayer_scale_norm is not supported",
        ),
        (
            "make_layer_stack.layer_stack_cls = @transformer.ReversibleLayerStack\n"
            "LayerStack.sublayers_per_layer = [@sublayer_call_layer, @sublayer_residual]\n",
            "LayerStack.sublayers_per_layer",
            "adds both streams",
        ),
        (
            "make_layer_stack.layer_stack_cls = @mine.Layers\n",
            "make_layer_stack.layer_stack_cls",
            "only LayerStack, ReversibleLayerStack, UTLayerStack, FunnelTransformerLayerStack are",
        ),
        (
            "make_layer_stack.layer_stack_cls = @UTLayerStack\n"
            "UTLayerStack.recurrence_type = 'highway'\n",
            "UTLayerStack.recurrence_type",
            "unshared variables",
        ),
        (
            "make_layer_stack.layer_stack_cls = @UTLayerStack\n"
            "UTLayerStack.recurrence_type = 'act'\nUTLayerStack.act_type = 'global'\n",
            "UTLayerStack.act_type",
            "position-wise",
        ),
        (
            "make_layer_stack.layer_stack_cls = @FunnelTransformerLayerStack\n",
            "make_layer_stack.layer_stack_cls",
            "for encoders",
        ),
        (
            "encoder/make_layer_stack.layer_stack_cls = @FunnelTransformerLayerStack\n"
            "FunnelTransformerLayerStack.n_blocks = 1\n"
            "FunnelTransformerLayerStack.block_param_size = [2]\n"
            "FunnelTransformerLayerStack.block_repeat_size = [2]\n",
            "FunnelTransformerLayerStack.block_repeat_size",
            "stops with an error",
        ),
        (
            "make_bitransformer.encoder_name = 'decoder'\n",
            "make_bitransformer.encoder_name",
            "the same layers by name only",
        ),
    ],
)
def test_what_is_not_supported_is_an_error_that_partial_leaves_out(
    text: str, name: str, reason: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(ConversionError, match=reason) as error:
        _imported(text, tmp_path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)
    partial = _imported(text, tmp_path, partial=True)
    assert reason in _lists(partial)["not supported"][name]
    assert any(name in note for note in partial.notes)


def test_bindings_without_meaning_have_a_reason(tmp_path: pathlib.Path) -> None:
    text = "run.mode = 'eval'\nLocalSelfAttention.radius = 3\nunused = 1\n"
    lists = _lists(_imported(text, tmp_path))
    assert lists["ignored"] == {
        "run.mode": "'eval': every mode of the original's program is a command here",
        "LocalSelfAttention.radius": "3: nothing in this configuration uses it",
        "unused": "1: nothing in this configuration uses it",
    }
    assert lists["taken over"]["num_layers"] == "2"


@pytest.mark.parametrize(
    "binding",
    [
        "MtfModel.batch_size = 16",
        "maybe_print_dataset.should_print = True",
        "mesh_tensorflow.transformer.utils.train_model.ensemble_inputs = None",
        "num_parallel_calls.deterministic = True",
        "run.optimizer = None",
        "unsupervised.preprocessors = None",
        "unsupervised.output_features = None",
        "AdafactorOptimizer.learning_rate = None",
        "tpu_estimator_model_fn.optimizer = None",
        "decoder/Unitransformer.layout = None",
        "EncDecAttention.relative_attention_num_buckets = 32",
        "beam_search.num_prefilter = 2",
    ],
)
def test_bindings_that_change_no_model_are_ignored(binding: str, tmp_path: pathlib.Path) -> None:
    lists = _lists(_imported(f"{binding}\n", tmp_path))
    assert not lists["not supported"]
    name = binding.partition(" = ")[0].removeprefix("mesh_tensorflow.transformer.utils.")
    ignored = lists["ignored"]
    # A list without an objective is taken over: it means pairs of texts.
    assert name in (lists["taken over"] if name == "unsupervised.preprocessors" else ignored)


def test_what_makes_the_original_s_data_has_no_meaning(tmp_path: pathlib.Path) -> None:
    text = """
run.vocabulary = @sentencepiece_vocabulary.SentencePieceVocabulary()
SentencePieceVocabulary.sentencepiece_model_file = @mine.model_path()
model_path.name = 'c4'
run.train_dataset_fn = @mine.rows
rows.seed = 1
"""
    lists = _lists(_imported(text, tmp_path))
    assert not lists["not supported"]
    for name in ("model_path.name", "rows.seed"):
        assert "TRAINING_DATA and VOCABULARY" in lists["ignored"][name]


def test_experts_of_attention_are_apart_from_other_experts(tmp_path: pathlib.Path) -> None:
    text = f"{BY_EXPERTS}ExpertsSelfAttention.shared_kv = True\nMoE1D.hidden_size = 48\n"
    written = _text(_imported(text, tmp_path, partial=True))
    for line in (
        "layers = [@zoo.ExpertsSelfAttention, @moe.MoE1D]",
        "    projections = @zoo.ExpertProjections()\n",
        "    mixture = @encoder_attention_experts/moe.MoE1D\n"
        "    experts = @encoder_attention_experts/moe.Experts\n",
        "encoder_attention_experts/moe.MoE1D:\n    num_experts = 8\n",
        "encoder_attention_experts/transformer.AttentionHeads:\n    num_heads = 2\n",
        "encoder_attention_experts/moe.Experts:\n    hidden_size = 24\n",
        "encoder_attention_experts/moe.Router:\n    gate = @moe.Switch()\n",
        "\nmoe.Experts:\n    hidden_size = 48\n",
    ):
        assert line in written, written


def test_reversible_stacks_have_their_class(tmp_path: pathlib.Path) -> None:
    text = """
make_layer_stack.layer_stack_cls = @transformer.ReversibleLayerStack
ReversibleLayerStack.sublayers_per_layer = [@sublayer_rms_norm, @sublayer_call_layer]
LayerStack.recompute_grads = True
"""
    imported = _imported(text, tmp_path)
    written = _text(imported)
    for line in (
        "    encoder = @encoder/zoo.ReversibleStack\n    decoder = @decoder/zoo.ReversibleStack",
        "decoder/zoo.ReversibleStack:\n    num_layers = %NUM_LAYERS",
        "    layer = [@transformer.RMSNorm, @transformer.MaskPadding, @transformer.CallLayer]\n",
    ):
        assert line in written, written
    assert "rematerialise" not in written
    # The original's class does not set padding to 0 at the end.
    assert "    final = " not in written
    assert "always" in _lists(imported)["ignored"]["LayerStack.recompute_grads"]


def test_shared_layers_are_taken_over(tmp_path: pathlib.Path) -> None:
    layer = "@transformer_layers"
    text = f"""
encoder/make_layer_stack.layers = [('a', {layer}.SelfAttention), ('b', {layer}.DenseReluDense)]
decoder/make_layer_stack.layers = [
    ('a', {layer}.SelfAttention), ('c', {layer}.EncDecAttention), ('b', {layer}.DenseReluDense)]
make_bitransformer.encoder_name = 'decoder'
"""
    assert "model = @parity.SharedLayersEncoderDecoder" in _text(_imported(text, tmp_path))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("run.mesh_shape", ["'four'", "3", "[1]", "[('batch', 0)]"]),
        ("run.layout_rules", ["'batch'", "3", "[('batch', 'data', 'model')]"]),
        (
            "run.batch_size",
            ["('rows', 3)", "('tokens_per_batch', 'many')", "2.5", "'16'", "0", "-4"],
        ),
        ("run.sequence_length", ["'long'", "{'inputs': 8}", "{'targets': None}", "-1"]),
        ("run.train_steps", ["'ten'", "0", "1e400"]),
        ("run.learning_rate_schedule", ["'noam'", "@mine.rate"]),
        ("unsupervised.preprocessors", ["3", "@preprocessors.denoise"]),
        ("make_layer_stack.num_layers", ["None", "'six'", "[6]", "True"]),
        ("encoder/make_layer_stack.layers", ["None", "3", "[3]", "[None]", "'SelfAttention'"]),
        ("make_bitransformer.encoder_name", ["None", "['encoder']"]),
        ("decoder/Unitransformer.loss_denominator", ["'x'", "[1]"]),
        ("Bitransformer.decode.beam_size", ["None", "[4]"]),
        ("Bitransformer.decode.decode_length_multiplier", ["'twice'"]),
    ],
)
def test_a_value_that_cannot_be_read_is_an_error(
    name: str, values: list[str], tmp_path: pathlib.Path
) -> None:
    for value in values:
        with pytest.raises(ConversionError, match=name.rpartition(".")[2]) as error:
            _imported(f"{name} = {value}\n", tmp_path)
        assert "\n" not in str(error.value)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    [
        "".join(f"m{i} = [%m{i + 1}, %m{i + 1}]\n" for i in range(60))
        + "m60 = 1\nmake_layer_stack.layers = %m0\n",
        "unused = %m0\nm0 = [%m0]\nmake_layer_stack.layers = %unused\n",
    ],
)
def test_macros_that_grow_without_end_are_an_error(text: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match="parts, or 128 nested levels"):
        _imported(text, tmp_path)


def test_an_invalid_value_is_an_error_that_names_its_file(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "model.gin"
    source.write_text(f"{SMALL}EncDecAttention.num_memory_heads = 3\n")
    process = mtfrun_here("import", f"--from={source}", f"--model_dir={tmp_path}/run")
    line = error_line(process)
    assert f"{source} makes no valid configuration: config.gin:" in line
    assert "num_memory_heads=3 must divide num_heads=2" in line
    assert [path.name for path in tmp_path.iterdir()] == ["model.gin"]


def test_a_command_finds_included_files_in_the_search_paths_of_t5(tmp_path: pathlib.Path) -> None:
    (tmp_path / "t5/models").mkdir(parents=True)
    (tmp_path / "t5/models/base.gin").write_text("mine.Layer.size = 1\n")
    source = tmp_path / "byt5/gin/models/byt5.gin"
    source.parent.mkdir(parents=True)
    source.write_text("include 'models/base.gin'\n")
    command = ["import", f"--from={source}", f"--model_dir={tmp_path}/run"]
    flag = f"--gin_location_prefix={tmp_path}/none,{tmp_path}/t5"
    assert "Layer.size" in error_line(mtfrun_here(*command, flag))
    assert "--gin_search_paths" in error_line(mtfrun_here(*command))
    refused = error_line(mtfrun_here(*command, "--gin_param=run.train_steps = 3"))
    assert "leave out --gin_param" in refused


def test_a_macro_without_a_value_is_an_error_where_it_is_needed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match="%size, which it never defines"):
        _imported("Unitransformer.d_model = %size\n", tmp_path)
    lists = _lists(_imported("get_vocabulary.mixture_or_task_name = %NAME\n", tmp_path))
    assert "get_vocabulary.mixture_or_task_name" in lists["ignored"]
