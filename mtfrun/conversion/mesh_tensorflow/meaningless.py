"""Bindings of Mesh TensorFlow and T5 that say nothing about a run here, and why.

The names and their meaning are those of mesh-tensorflow 0.1.21 and t5 0.9.4 on PyPI.
"""

from __future__ import annotations

from collections.abc import Mapping

_COMMAND = "every mode of the original's program is a command here"
_CHECKPOINTS = "the commands choose checkpoints by --step"
_FILES = "files of input and output are flags of `mtfrun decode` and `mtfrun score`"
_SCORES = "`mtfrun score` writes one JSON object a pair"
_DEVICES = "devices are found, and MESH_SHAPE says how they are used"
_GRAPH = "a property of the original's graph; the numbers are the same"
_INITIAL = "initial values, which the checkpoint or the paper's initialisation of mtfrun replaces"
_TPU = "for TPUs of Google Cloud only"
_SUMMARIES = "evaluations are written to the run directory and to TensorBoard"
_RESUME = "the position in the data is part of every checkpoint"
_VOCABULARY = "belongs to the vocabulary, which VOCABULARY names"
_DATA = (
    "belongs to the original's reading of data, which TRAINING_DATA and the files of data replace"
)
_UNPACKED = "mtfrun packs and pads rows itself"
_HYPERPROMPT = "part of prompts that are learned, which this model has not switched on"

MEANINGLESS: Mapping[str, str] = {
    "run.autostack": _GRAPH,
    "run.checkpoint_input_pipeline": _RESUME,
    "run.dataset_split": 'training reads the split "train"; EVAL_SPLIT is that of evaluations',
    "run.eval_checkpoint_step": _CHECKPOINTS,
    "run.eval_dir_suffix": _SUMMARIES,
    "run.eval_summary_dir": _SUMMARIES,
    "run.export_checkpoint_step": _CHECKPOINTS,
    "run.export_path": "`mtfrun export --to=PATH` says where",
    "run.mesh_devices": _DEVICES,
    "run.mode": _COMMAND,
    "run.output_eval_examples": _SUMMARIES,
    "run.seen_data_init_step": _RESUME,
    "run.skip_seen_data": _RESUME,
    "run.tpu_job_name": _TPU,
    "run.tpu": _TPU,
    "run.gcp_project": _TPU,
    "run.tpu_zone": _TPU,
    "run.model_dir": "--model_dir says where",
    "tpu_mesh_shape.*": _DEVICES,
    "SimdMeshImpl.*": _TPU,
    "get_variable_dtype.master_dtype": "checkpoints have the types of the variables in memory",
    "get_variable_dtype.slice_dtype": "variables are float32, as in all training of the original",
    "rewrite_stack_variables.*": _GRAPH,
    "tpu_estimator_model_fn.hierarchical_tiling_spec": _TPU,
    "tpu_estimator_model_fn.init_variable_filter": "WarmStart.variables of mtfrun selects variables",
    "tpu_estimator_model_fn.init_checkpoint": "INIT_CHECKPOINT is the checkpoint to start from",
    "tpu_estimator_model_fn.model_info_file": "`mtfrun plan` describes the program",
    "tpu_estimator_model_fn.tpu_summaries": _SUMMARIES,
    "tpu_estimator_model_fn.weight_decay_checkpoint": "the original does not read it",
    "should_load_variable.*": "WarmStart.variables of mtfrun selects variables",
    "init_checkpoint_variable_mapping.*": "mtfrun knows the names of the original's variables",
    "VarianceScalingInitializer.*": _INITIAL,
    "make_bitransformer.bitransformer_cls": "the class of all encoder-decoders",
    "get_vocab_embedding_cls.cls": "the class of all embeddings",
    "sublayer_rms_norm.name": "part of variables' names only",
    "SelfAttention.hyperprompt_hidden_dim": _HYPERPROMPT,
    "SelfAttention.hyperprompt_mtlshare": _HYPERPROMPT,
    "SelfAttention.hyperprompt_task_num": _HYPERPROMPT,
    "auto_train_steps.*": "TRAIN_STEPS says how many steps there are",
    "get_checkpoint_iterator.*": _CHECKPOINTS,
    "decode.*": _FILES,
    "decode_from_file.*": _FILES,
    "decode_from_files.*": _FILES,
    "decode_from_dataset.*": _FILES,
    "infer_model.*": _FILES,
    "clean_decodes.*": "texts end at the first end id here, too",
    "score_from_strings.*": _FILES,
    "score_from_dataset.*": _FILES,
    "score_with_estimator.*": _SCORES,
    "score_with_estimator_lazy.*": _SCORES,
    "compute_log_likelihoods.*": _SCORES,
    "save_scores.*": _SCORES,
    "save_scores_to_tfrecords.*": _SCORES,
    "Bitransformer.decode.decode_length_multiplier": "outputs end at the length of Decoding.max_length",
    "Bitransformer.decode.decode_length_constant": "outputs end at the length of Decoding.max_length",
    "Unitransformer.sample_autoregressive.max_steps": "outputs end at the length of Decoding.max_length",
    "Unitransformer.sample_autoregressive.has_partial_sequences": "prompts may be empty",
    "Unitransformer.sample_autoregressive.remove_partial_sequences": "outputs never repeat the prompt",
    "Vocabulary.*": _VOCABULARY,
    "get_vocabulary.*": _VOCABULARY,
    "get_t2t_vocabulary.*": _VOCABULARY,
    "get_tfds_vocabulary.*": _VOCABULARY,
    "separate_vocabularies.*": _VOCABULARY,
    "mesh_train_dataset_fn.*": _DATA,
    "mesh_eval_dataset_fn.*": _DATA,
    "mesh_inference_dataset_fn.*": _DATA,
    "tsv_dataset_fn.*": _DATA,
    "pack_or_pad.*": _UNPACKED,
    "pack_dataset.*": _UNPACKED,
    "pretokenized_tfds_dataset.*": _DATA,
    "untokenized_tfds_dataset.*": _DATA,
    "pretokenized_t2t_dataset.*": _DATA,
    "packed_parallel_tsv_dataset.*": _DATA,
    "simple_text_line_dataset.*": _DATA,
    "make_text_line_dataset.*": _DATA,
    "sample_from_text_line_datasets.*": _DATA,
    "rate_num_examples.*": "the rates of a mixture's tasks belong to its file of data",
    "rate_unsupervised.*": "the rates of a mixture's tasks belong to its file of data",
    "select_random_chunk.*": "rows are cut from the stream of all texts, of which none is left out",
    "reduce_concat_tokens.*": "rows are cut from the stream of all texts",
    "split_tokens.*": "rows have as many tokens as fill the inputs and targets",
    "split_tokens_to_inputs_length.*": "rows have as many tokens as fill the inputs and targets",
    "split_tokens_to_targets_length.*": "rows have as many tokens as fill the targets",
    "unsupervised.preprocessors": "the class of data does what these functions do one by one",
    "random_spans_helper.extra_tokens_per_span_inputs": "a span has one sentinel",
    "random_spans_helper.extra_tokens_per_span_targets": "a span has one sentinel",
    "random_spans_helper.verbose": "prints only",
    "greedy_decode.*": "Search and Decoding have the settings of decoding",
}
"""Reasons by "class.parameter", or "class.*" for all parameters."""

CALLABLES = frozenset(
    ["SelfAttention", "LocalSelfAttention", "EncDecAttention", "DenseReluDense", "MoE1D", "HeterogeneousMoE1D", "ExpertsSelfAttention", "ExpertsEncDecAttention", "Synthesizer", "TransparentEncDecAttention", "TalkingHeadsSelfAttention", "TalkingHeadsEncDecAttention", "GeneralBilinearSelfAttention", "GeneralBilinearEncDecAttention", "BranchedSelfAttention", "BranchedEncDecAttention", "Conv1DLayer", "SeparableConv1DLayer", "Conv1DLocalAttn", "LightweightConv1DLocalAttn", "DynamicConv1DLocalAttn", "LocalConvAttnBlock", "ParallelLayer", "ProductKeyValueMemory", "GatedLinearUnitLayer", "EncoderConvolutionalLayer", "DecoderAttentionLayer", "DecoderConvolutionalLayer", "DenseReluDenseFixup", "SelfAttentionFixup", "EncDecAttentionFixup", "LayerStack", "ReversibleLayerStack", "UTLayerStack", "FunnelTransformerLayerStack", "make_layer_stack", "make_bitransformer", "make_bi_student_teacher", "Unitransformer", "Bitransformer", "BitransformerFunnel", "StudentTeacher", "Bitransformer.decode", "Unitransformer.sample_autoregressive", "Unitransformer.beam_search", "VocabEmbedding", "FactorizedVocabEmbedding", "AdaptiveVocabEmbedding", "AdaptiveSoftmaxVocabEmbedding", "MixtureOfSoftmaxes", "Mixtape", "get_vocab_embedding_cls", "adaptive_softmax_loss_fn", "enc_dec_attention", "enc_dec_attention_bias", "relative_position_spans", "sublayer_call_layer", "sublayer_mask_padding", "sublayer_rms_norm", "sublayer_legacy_rms_norm", "sublayer_legacy_final_rms_norm", "sublayer_rms_norm_subsampled", "sublayer_scale_norm", "sublayer_residual", "sublayer_dropout", "sublayer_annealed_dropout", "sublayer_clip_activation_gradient", "sublayer_legacy_dropout", "sublayer_rezero", "sublayer_true_layer_norm", "sublayer_fixup_scale", "sublayer_fixup_shift", "clip_activation_gradient", "SgdOptimizer", "MomentumOptimizer", "AdamWeightDecayOptimizer", "AdafactorOptimizer", "AdafactorWithMultiLRSchedule", "AdamWithMultiLRSchedule", "compute_lr_for_step", "adafactor_decay_rate_pow", "product_learning_rate", "linear_decay", "linear_warmup", "truncated_rsqrt", "constant", "constant_learning_rate", "linear_decay_learning_rate", "learning_rate_schedule_noam", "slanted_triangular", "shift_targets", "reduce_ensemble_logits", "reduce_ensemble_logits_select", "reduce_ensemble_logits_mean_prob", "reduce_ensemble_logits_mean_logit", "variable_filter_max_size", "flexible_ckpt_init_mapping", "unit_scaling_convention", "serialize_num_microbatches", "get_variable_dtype", "run", "tpu_estimator_model_fn", "denoise", "iid_noise_mask", "regular_noise_mask", "random_spans_noise_mask", "random_prefix_noise_mask", "random_spans_helper", "random_spans_tokens_length", "random_spans_targets_length", "noise_token_to_sentinel", "noise_span_to_sentinel", "nonnoise_span_to_sentinel", "noise_span_to_unique_sentinel", "nonnoise_span_to_unique_sentinel", "drop_noise_tokens", "drop_nonnoise_tokens", "permute_noise_tokens", "noise_token_to_gathered_token", "noise_token_to_random_token", "noise_token_to_random_token_or_sentinel", "sentinel_id", "split_tokens_to_random_length", "concatenate_and_split_to_fixed_length", "filter_by_string_length"]
)
"""The classes and functions of both packages that a configuration may, or may not, call."""
