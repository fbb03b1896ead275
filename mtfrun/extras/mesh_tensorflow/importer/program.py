"""Defaults, ignored settings and callables of mesh-tensorflow 0.1.21 and t5 0.9.4 on PyPI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MIXTURES = "MoE1D|MoE2D|HeterogeneousMoE1D|ExpertsSelfAttention"
_ATTENTIONS = "SelfAttention|EncDecAttention|ExpertsSelfAttention"
_NAMES_BY_REASON = {
    "belongs to T5's class for Python programs; the macros of config.gin say it here": """
        MtfModel.* HfPyTorchModel.*
    """,
    "a property of the original's graph; the results are the same": """
        run.autostack rewrite_stack_variables.*
    """,
    "the position in the data is part of every checkpoint": """
        run.checkpoint_input_pipeline run.seen_data_init_step run.skip_seen_data
    """,
    'training reads the split "train"; evaluations read EVAL_SPLIT': "run.dataset_split",
    "the commands choose checkpoints by --checkpoint": """
        run.eval_checkpoint_step run.export_checkpoint_step get_checkpoint_iterator.*
    """,
    "evaluations are written to the run directory and to TensorBoard": """
        run.eval_dir_suffix run.eval_summary_dir run.output_eval_examples
        tpu_estimator_model_fn.tpu_summaries
    """,
    "`mtfrun export --to=PATH` says where": "run.export_path",
    "devices are found, and MESH_SHAPE says how they are used": "run.mesh_devices tpu_mesh_shape.*",
    "every mode of the original's program is a command here": "run.mode",
    "for TPUs of Google Cloud only": """
        run.tpu_job_name run.tpu run.gcp_project run.tpu_zone SimdMeshImpl.*
        tpu_estimator_model_fn.hierarchical_tiling_spec
    """,
    "--model_dir says where": "run.model_dir",
    "checkpoints have the types of the variables in memory": "get_variable_dtype.master_dtype",
    "variables are float32, as in all training of the original": "get_variable_dtype.slice_dtype",
    "the original's program passes the value that it uses itself": """
        tpu_estimator_model_fn.* Unitransformer.input_vocab_size
        Unitransformer.output_vocab_size Unitransformer.layout Unitransformer.mesh_shape
        make_bitransformer.input_vocab_size make_bitransformer.output_vocab_size
        make_bitransformer.layout make_bitransformer.mesh_shape Unitransformer.name
        Unitransformer.autoregressive build_model.* get_estimator.* train_model.* eval_model.*
        export_model.*
    """,
    "run.learning_rate_schedule takes its place": """
        AdafactorOptimizer.learning_rate AdamWeightDecayOptimizer.learning_rate
        MomentumOptimizer.learning_rate SgdOptimizer.learning_rate
    """,
    "InitCheckpoint.variables of mtfrun selects variables": """
        tpu_estimator_model_fn.init_variable_filter should_load_variable.*
    """,
    "INIT_CHECKPOINT is the checkpoint to start from": "tpu_estimator_model_fn.init_checkpoint",
    "`mtfrun plan` describes the program": "tpu_estimator_model_fn.model_info_file",
    "the original does not read it": "tpu_estimator_model_fn.weight_decay_checkpoint",
    "mtfrun knows the names of the original's variables": "init_checkpoint_variable_mapping.*",
    "initial values, which the checkpoint or the paper's initialisation of mtfrun replaces": """
        VarianceScalingInitializer.*
    """,
    "the only such class": "make_bitransformer.bitransformer_cls get_vocab_embedding_cls.cls",
    "part of variables' names only": "sublayer_rms_norm.name",
    "part of prompts that are learned, which this model has not switched on": """
        SelfAttention|EncDecAttention.hyperprompt_hidden_dim
        SelfAttention|EncDecAttention.hyperprompt_mtlshare
        SelfAttention|EncDecAttention.hyperprompt_task_num
        EncDecAttention.hyperprompt_length_encoder EncDecAttention.hyperprompt_length_decoder
    """,
    "attention to an encoder does not read it": "EncDecAttention.relative_attention_num_buckets",
    "the original does not use it": """
        Synthesizer.shared_kv Synthesizer.combine_dims Synthesizer.attention_func
        LocalConvAttnBlock.num_unique_depth_filters LayerStack|ReversibleLayerStack.norm_epsilon
        FunnelTransformerLayerStack.norm_epsilon
    """,
    "the inputs of sublayers are always computed again": """
        LayerStack|ReversibleLayerStack.recompute_grads
    """,
    "LayerStack.dropout_rate selects older lists, or a subclass has other values": """
        LayerStack|ReversibleLayerStack|FunnelTransformerLayerStack.sublayers_initial
        LayerStack|ReversibleLayerStack|FunnelTransformerLayerStack.sublayers_per_layer
        LayerStack|ReversibleLayerStack|FunnelTransformerLayerStack.sublayers_final
        LayerStack.dropout_rate
    """,
    "no step of the supported kinds uses it": """
        UTLayerStack.position_start_index UTLayerStack.add_position_timing_signal
        UTLayerStack.num_vanilla_transformer_layers UTLayerStack.gates_inputs
        UTLayerStack.gate_ffn_layer UTLayerStack.gating_type
        UTLayerStack.couple_carry_transform_gates UTLayerStack.num_rec_steps
        UTLayerStack.act_max_steps UTLayerStack.act_type UTLayerStack.act_epsilon
        UTLayerStack.step_timing_signal_type
    """,
    "only decoders have a loss and logits": """
        Unitransformer.label_smoothing Unitransformer.z_loss Unitransformer.loss_denominator
        Unitransformer.loss_fn Unitransformer.loss_on_targets_only
        Unitransformer.shared_embedding_and_softmax_weights Unitransformer.input_full_attention
    """,
    "no gate of this configuration reads it": f"""
        {_MIXTURES}.use_second_place_loss {_MIXTURES}.use_second_place_expert_prob_temp
        {_MIXTURES}.second_policy_train {_MIXTURES}.second_policy_eval
        {_MIXTURES}.second_threshold_train {_MIXTURES}.second_threshold_eval
        {_MIXTURES}.switch_policy_train {_MIXTURES}.switch_policy_eval {_MIXTURES}.switch_dropout
        {_MIXTURES}.switch_temperature {_MIXTURES}.switch_jitter {_MIXTURES}.ntlb_top_k
        {_MIXTURES}.top_n_num_experts_per_token
    """,
    "the checkpoint that is imported replaces it": "run.init_checkpoint",
    "TRAIN_STEPS says how many steps there are": "auto_train_steps.*",
    "files of input and output are flags of `mtfrun decode` and `mtfrun score`": """
        decode.* decode_from_file.* decode_from_files.* decode_from_dataset.* infer_model.*
        score_from_strings.* score_from_dataset.*
    """,
    "the search compares all candidates; decoding.Search has its settings": """
        beam_search.* Unitransformer.beam_search.*
    """,
    "prints only; `mtfrun data show` does so": """
        maybe_print_dataset.* sequence_length.* random_spans_helper.verbose
    """,
    "data are read by as many threads as there are cores": "num_parallel_calls.*",
    "belongs to the vocabulary, which VOCABULARY names": """
        configurable_vocabulary.* Vocabulary.* SentencePieceVocabulary.*
        get_sentencepiece_model_path.* get_vocabulary.* get_t2t_vocabulary.* get_tfds_vocabulary.*
        separate_vocabularies.*
    """,
    "texts end at the first end id here, too": "clean_decodes.*",
    "`mtfrun score` writes one JSON object a pair": """
        score_with_estimator.* score_with_estimator_lazy.* compute_log_likelihoods.* save_scores.*
        save_scores_to_tfrecords.*
    """,
    "outputs end at the length of Decoding.max_length": """
        Unitransformer.sample_autoregressive.max_steps
    """,
    "prompts may be empty": "Unitransformer.sample_autoregressive.has_partial_sequences",
    "outputs have no prompt": "Unitransformer.sample_autoregressive.remove_partial_sequences",
    "the original's reading of data, which TRAINING_DATA and the files of data replace": """
        mesh_train_dataset_fn.* mesh_eval_dataset_fn.* mesh_inference_dataset_fn.* tsv_dataset_fn.*
        pretokenized_tfds_dataset.* untokenized_tfds_dataset.* pretokenized_t2t_dataset.*
        packed_parallel_tsv_dataset.* simple_text_line_dataset.* make_text_line_dataset.*
        sample_from_text_line_datasets.*
    """,
    "mtfrun packs and pads rows itself": "pack_or_pad.* pack_dataset.*",
    "the rates of a mixture's tasks belong to its file of data": """
        rate_num_examples.* rate_unsupervised.*
    """,
    "rows are cut from the stream of all texts, as many tokens as fill the inputs and targets": """
        select_random_chunk.* reduce_concat_tokens.* split_tokens.* split_tokens_to_inputs_length.*
        split_tokens_to_targets_length.*
    """,
    "the class of data does what these functions do one by one": "unsupervised.*",
    "a span has one sentinel": """
        random_spans_helper.extra_tokens_per_span_inputs
        random_spans_helper.extra_tokens_per_span_targets
    """,
    "the stream of texts has one feature": """
        denoise.input_feature_key denoise.passthrough_feature_keys
    """,
    "Search and Decoding have the settings of decoding": "greedy_decode.*",
}


def _each(names: str) -> Iterator[str]:
    """Yields "A.x" and "B.x" for "A|B.x"."""
    for name in names.split():
        classes, _, parameter = name.rpartition(".")
        yield from (f"{cls}.{parameter}" for cls in classes.split("|"))


IGNORED: Mapping[str, str] = {
    name: reason for reason, names in _NAMES_BY_REASON.items() for name in _each(names)
}
"""Reasons by "class.parameter", or "class.*", for bindings that the conversion does not read."""

_SAME_LAYERS = "the original's further layers have the variables of the steps: not supported"
_SAMPLING = "Unitransformer.sample_autoregressive"
_IDS = "decoders begin with id 0, and texts end with id 1"
_NO_BIAS = "logits by distance to inputs are not supported"
_NO_PROMPTS = "prompts that are learned are not supported"
_ONE_VALUE: Sequence[tuple[str, Any, str]] = (
    ("run.ensemble_inputs", None, "the members of an ensemble have the same inputs"),
    ("unit_scaling_convention.value", False, "variables are not scaled so"),
    (
        "VocabEmbedding.scale_variable_like_classifier_weights",
        False,
        "embeddings are not scaled so",
    ),
    ("Mixtape.extra_ids", 0, "the table is not shared where ids change places"),
    (f"shift_targets|{_SAMPLING}.bos_id", 0, _IDS),
    (f"shift_targets.eos_id {_SAMPLING}.stop_at_token", 1, _IDS),
    (f"{_SAMPLING}.never_end", False, "outputs end with id 1"),
    ("Unitransformer.token_dropout_rate", 0.0, "ids are not dropped"),
    ("Bitransformer.shared_embedding", True, "embeddings of encoder and decoder are not separate"),
    (f"{_ATTENTIONS}.attention_func", None, "only the softmax of dot products is supported"),
    (f"{_ATTENTIONS}.combine_dims", True, "the slots of Adafactor would have other shapes"),
    (f"{_ATTENTIONS}|Synthesizer.keep_query_heads_dims", False, "the output has no heads"),
    (
        "SelfAttention|EncDecAttention|Synthesizer.fold_scaling_into_initializer",
        True,
        "the logits are not scaled",
    ),
    (f"{_ATTENTIONS}.z_loss_coeff", None, "attention has no z-loss"),
    (f"{_ATTENTIONS}.use_hyperprompt", False, _NO_PROMPTS),
    ("SelfAttention.hyperprompt_length_encoder", None, _NO_PROMPTS),
    ("SelfAttention.hyperprompt_length_decoder", None, _NO_PROMPTS),
    ("EncDecAttention|TalkingHeadsEncDecAttention.relative_attention_type", None, _NO_BIAS),
    ("Synthesizer.num_memory_heads", 0, "keys and values have as many heads as queries"),
    (f"{_MIXTURES}.output_dim", None, "the output has the size of the input"),
    (f"{_MIXTURES}.word_embed_mode", None, "routers do not read embeddings"),
    (f"{_MIXTURES}.use_second_place_expert_prob", None, "routers do not draw second experts"),
    ("MoE1D.use_experts_attention", False, "ExpertsSelfAttention has the experts of attention"),
    ("UTLayerStack.num_inrecurrence_layers", 1, "steps apply their blocks once"),
    ("UTLayerStack.add_or_concat_timing_signal", "add", "signals are added"),
    ("UTLayerStack.use_gated_transformer", False, "gates with unshared variables: not supported"),
    ("UTLayerStack.mix_with_transformer_before_ut", False, _SAME_LAYERS),
    ("UTLayerStack.mix_with_transformer_after_ut", False, _SAME_LAYERS),
    ("FunnelTransformerLayerStack.n_submodules", 2, "blocks have two layers"),
)
ONE_VALUE: Mapping[str, tuple[Any, str]] = {
    name: (value, why) for names, value, why in _ONE_VALUE for name in _each(names)
}
"""The only supported value of a parameter, and why, by "class.parameter"."""

_CALLABLES = """
SelfAttention LocalSelfAttention EncDecAttention DenseReluDense MoE1D HeterogeneousMoE1D
ExpertsSelfAttention ExpertsEncDecAttention Synthesizer TransparentEncDecAttention
TalkingHeadsSelfAttention TalkingHeadsEncDecAttention GeneralBilinearSelfAttention
GeneralBilinearEncDecAttention BranchedSelfAttention BranchedEncDecAttention Conv1DLayer
SeparableConv1DLayer Conv1DLocalAttn LightweightConv1DLocalAttn DynamicConv1DLocalAttn
LocalConvAttnBlock ParallelLayer ProductKeyValueMemory GatedLinearUnitLayer
EncoderConvolutionalLayer DecoderAttentionLayer DecoderConvolutionalLayer DenseReluDenseFixup
SelfAttentionFixup EncDecAttentionFixup LayerStack ReversibleLayerStack UTLayerStack
FunnelTransformerLayerStack make_layer_stack make_bitransformer make_bi_student_teacher
Unitransformer Bitransformer BitransformerFunnel StudentTeacher Bitransformer.decode
Unitransformer.sample_autoregressive Unitransformer.beam_search VocabEmbedding
FactorizedVocabEmbedding AdaptiveVocabEmbedding AdaptiveSoftmaxVocabEmbedding MixtureOfSoftmaxes
Mixtape get_vocab_embedding_cls adaptive_softmax_loss_fn enc_dec_attention enc_dec_attention_bias
relative_position_spans sublayer_call_layer sublayer_mask_padding sublayer_rms_norm
sublayer_legacy_rms_norm sublayer_legacy_final_rms_norm sublayer_rms_norm_subsampled
sublayer_scale_norm sublayer_residual sublayer_dropout sublayer_annealed_dropout
sublayer_clip_activation_gradient sublayer_legacy_dropout sublayer_rezero sublayer_true_layer_norm
sublayer_fixup_scale sublayer_fixup_shift clip_activation_gradient SgdOptimizer MomentumOptimizer
AdamWeightDecayOptimizer AdafactorOptimizer AdafactorWithMultiLRSchedule AdamWithMultiLRSchedule
compute_lr_for_step adafactor_decay_rate_pow product_learning_rate linear_decay linear_warmup
truncated_rsqrt constant constant_learning_rate linear_decay_learning_rate
learning_rate_schedule_noam slanted_triangular shift_targets reduce_ensemble_logits
reduce_ensemble_logits_select reduce_ensemble_logits_mean_prob reduce_ensemble_logits_mean_logit
variable_filter_max_size flexible_ckpt_init_mapping unit_scaling_convention
serialize_num_microbatches get_variable_dtype run tpu_estimator_model_fn denoise iid_noise_mask
regular_noise_mask random_spans_noise_mask random_prefix_noise_mask random_spans_helper
random_spans_tokens_length random_spans_targets_length noise_token_to_sentinel
noise_span_to_sentinel nonnoise_span_to_sentinel noise_span_to_unique_sentinel
nonnoise_span_to_unique_sentinel drop_noise_tokens drop_nonnoise_tokens permute_noise_tokens
noise_token_to_gathered_token noise_token_to_random_token noise_token_to_random_token_or_sentinel
sentinel_id split_tokens_to_random_length concatenate_and_split_to_fixed_length
filter_by_string_length
"""

BASES: Mapping[str, str] = {
    "EncDecAttention": "SelfAttention",
    "ExpertsSelfAttention": "SelfAttention",
    "TalkingHeadsEncDecAttention": "TalkingHeadsSelfAttention",
    "LightweightConv1DLocalAttn": "Conv1DLocalAttn",
    "DynamicConv1DLocalAttn": "Conv1DLocalAttn",
    "ReversibleLayerStack": "LayerStack",
}
"""The classes from which others inherit unbound parameters."""

ALWAYS_CALLED = frozenset(
    ("Bitransformer", "VocabEmbedding", "shift_targets", "unit_scaling_convention", _SAMPLING)
)
CALLABLES = frozenset(_CALLABLES.split())
"""The classes and functions of both packages that a configuration may, or may not, call."""

# Bindings of mesh_tensorflow/transformer/gin/defaults.gin, which go before every file of the user.
# A file that the program wrote, operative_config.gin, has all values itself.
PROGRAM_DEFAULTS = """
num_layers = 6
d_model = 1024
d_ff = 4096
num_heads = 8
d_kv = 128
dropout_rate = 0.1
make_layer_stack.layers = [@SelfAttention, @DenseReluDense]
encoder/make_layer_stack.layers = [@SelfAttention, @DenseReluDense]
decoder/make_layer_stack.layers = [@SelfAttention, @EncDecAttention, @DenseReluDense]
make_layer_stack.num_layers = %num_layers
LayerStack.sublayers_initial = [@sublayer_dropout]
LayerStack.sublayers_per_layer = [
    @sublayer_rms_norm, @sublayer_call_layer, @sublayer_dropout, @sublayer_residual
]
LayerStack.sublayers_final = [@sublayer_rms_norm, @sublayer_dropout]
LayerStack.dropout_rate = None
LayerStack.norm_epsilon = None
Unitransformer.shared_embedding_and_softmax_weights = True
Unitransformer.d_model = %d_model
Unitransformer.max_length = 512
decoder/Unitransformer.label_smoothing = 0.0
DenseReluDense.hidden_size = %d_ff
DenseReluDense.dropout_rate = %dropout_rate
SelfAttention.num_heads = %num_heads
SelfAttention.key_value_size = %d_kv
SelfAttention.dropout_rate = %dropout_rate
LocalSelfAttention.dropout_rate = %dropout_rate
sublayer_dropout.dropout_rate = %dropout_rate
run.sequence_length = {'inputs': 512, 'targets': 512}
run.optimizer = @AdafactorOptimizer
run.layout_rules = \
    'ensemble:ensemble,batch:batch,d_ff:model,heads:model,vocab:model,experts:batch'
run.learning_rate_schedule = @learning_rate_schedule_noam
run.mesh_shape = @tpu_mesh_shape()
serialize_num_microbatches.tokens_per_microbatch_per_replica = 2048
get_variable_dtype.activation_dtype = 'bfloat16'
"""
