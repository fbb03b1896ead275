"""The cases of long tables of tests that the default suite runs: one of each kind.

All others of these tables are slow. Tests that are not listed run with all of their cases, but for
those that are marked where they stand.
"""

from __future__ import annotations

# Gin files of every kind, which two tests build once.
_BUILT = [
    *("data/delimited_denoising.gin", "data/image_folders.gin", "data/pairs.gin"),
    *("defaults.gin", "layouts/2x2.gin", "models/encoder_only.gin", "models/lm_tiny.gin"),
    *("models/moe_2d_tiny.gin", "models/prefix_lm.gin", "models/t5.1.1.tiny.gin"),
    *("runs/digits.gin", "runs/number_words.gin", "runs/quickstart.gin"),
]

# By a test's path and name: the identifiers of its quick cases, as pytest prints them in brackets.
QUICK_CASES = {
    "tests/extras/audit/commands/test_verify.py::test_what_is_wrong_first_is_listed_first": [
        "Experiment.model = @wrong_classes.WrongLoss-step 1  gradients  1  table [-"
        "return super().logits(features) * float(targets.mesh.num_splits(batch))"
    ],
    "tests/configuration/test_gin_headers.py::"
    "test_what_is_commonly_overridden_are_macros_of_the_run": [
        *_BUILT,
        *(
            "data/masked_lm.gin",
            "data/span_corruption.gin",
            "extras/text_tasks/data/text_classification.gin",
        ),
        *("extras/t5/data/ul2.gin", "layouts/moe_2d_2x2.gin", "layouts/spatial_2x2.gin"),
        *(
            "models/encoder_decoder.gin",
            "extras/huggingface/models/llama.gin",
            "models/moe_1d_tiny.gin",
        ),
        *(
            "extras/mesh_tensorflow/models/resnet_seed.gin",
            "extras/mesh_tensorflow/models/t2t_transformer_tiny.gin",
            "extras/vision/models/unet.gin",
        ),
    ],
    "tests/configuration/test_gin_headers.py::"
    "test_the_command_of_a_header_describes_its_run": _BUILT,
    "tests/configuration/test_gin_headers.py::test_the_number_of_parameters_in_a_header_is_right": [
        *("models/lm_base.gin", "models/moe_2d_base.gin", "models/resnet50.gin"),
        *(
            "extras/mesh_tensorflow/models/t2t_transformer_base.gin",
            "models/t5.1.1.base.gin",
            "runs/quickstart.gin",
        ),
    ],
    "tests/data/images/test_image_cache.py::test_a_damaged_cache_of_pixels_is_built_anew": [
        "True-images.bin"
    ],
    "tests/data/images/test_image_data.py::"
    "test_a_run_continues_at_a_position_with_any_batch_size_and_number_of_hosts": [
        *("4-stored", "12-augmented")
    ],
    "tests/data/test_mixture_data.py::test_a_mixture_continues_at_a_position_exactly": ["False"],
    "tests/decoding/test_beam_search.py::test_a_beam_of_all_sequences_finds_the_best_ones": ["0.6"],
    "tests/decoding/test_beam_search.py::"
    "test_a_prompt_begins_all_hypotheses_and_does_not_change_scores": ["0.6"],
    "tests/decoding/test_beam_search.py::test_every_mesh_has_the_same_result": ["data:2,model:2"],
    "tests/decoding/test_search.py::"
    "test_an_end_in_a_prompt_ends_its_row_unless_it_is_that_of_inputs": [
        "False-expected1-1-data:2,model:2"
    ],
    "tests/decoding/test_search.py::test_tokens_are_the_same_on_every_mesh": ["data:2,model:2"],
    "tests/decoding/test_search.py::test_steps_begin_at_the_end_of_the_shortest_prompt": [
        "1-data:2,model:2"
    ],
    "tests/decoding/test_sampling.py::test_a_layout_changes_no_token": [
        *("data:1,model:1-options0", "data:1,model:1-options1", "data:2,model:2-options2")
    ],
    "tests/layers/test_call.py::test_a_stack_measures_every_sublayer_in_loops_and_under_layouts": [
        "data:1,model:1-1"
    ],
    "tests/layers/test_attention_in_blocks.py::test_blocks_change_neither_output_nor_gradients": [
        "window-8"
    ],
    "tests/layers/test_call.py::"
    "test_a_recomputed_function_collects_and_has_gradients_as_any_other": ["data:1,model:1"],
    "tests/layers/test_layers_under_layouts.py::"
    "test_a_layout_changes_neither_output_nor_gradients": [
        "local_self_attention-data:2,model:2",
        "relative_position_bias-data:2,model:2",
        "softmax-data:2,model:2",
        "batch_norm-data:2,model:2",
        "conv_2d_transpose-data:2,model:2",
        "dense_product-data:2,model:2",
        "layer_norm_over_a_split_dimension-data:2,model:2",
    ],
    "tests/models/moe/test_dropless.py::test_a_layout_changes_nothing": [
        "switch-one-data:2,model:2-batch:data;experts:data;expert_hidden:model"
    ],
    "tests/models/moe/test_formulas.py::test_a_switch_with_a_slot_for_every_token_is_the_formula": [
        "gelu-n:6",
        "gelu_linear-n:3",
    ],
    "tests/models/moe/test_identities.py::test_padding_is_sent_to_no_expert_and_takes_no_slot": [
        "one_level"
    ],
    "tests/models/moe/test_language_model.py::"
    "test_steps_of_decoding_equal_the_whole_row_where_nothing_is_dropped": [
        "dropless-data:1,model:1"
    ],
    "tests/models/moe/test_mixtures_under_layouts.py::test_a_layout_changes_nothing": [
        "two levels-top_2-data:2,model:2-batch:data;experts:data;expert_x:data;"
        "outer_batch:model;expert_y:model;heads:model;vocab:model"
    ],
    "tests/models/moe/test_mixtures_under_layouts.py::test_gathers_equal_contractions": [
        "one level-data:1,model:1-top_2"
    ],
    "tests/extras/mesh_tensorflow/importer/test_imported_runs.py::"
    "test_a_run_goes_on_from_any_step": ["lm-one device"],
    "tests/extras/mesh_tensorflow/test_parity.py::"
    "test_a_position_attends_to_its_block_and_the_neighbouring_ones": [
        "False-data:1,model:1-",
        "False-data:2,model:2-h_blocks:data;w_blocks:model",
        "True-data:1,model:1-",
        "True-data:2,model:2-h_blocks:data;w_blocks:model",
    ],
    "tests/models/resnet/test_resnet_under_layouts.py::"
    "test_what_layers_collect_reaches_the_training_of_an_image_model": [
        "data:1,model:1-1-True",
        "data:1,model:1-2-False",
    ],
    "tests/models/resnet/test_image_input.py::test_augmentation_is_the_same_under_every_layout": [
        "data:2,model:2"
    ],
    "tests/models/resnet/test_resnet.py::test_the_logits_are_those_of_plain_tensorflow": ["True"],
    "tests/models/resnet/test_resnet_under_layouts.py::test_the_first_step_is_that_of_one_device": [
        "rematerialised-False"
    ],
    "tests/models/test_decoder_only.py::"
    "test_decoding_step_by_step_gives_the_logits_of_whole_rows": ["data:2,model:2-0-False-True"],
    "tests/models/test_decoder_only.py::test_loss_and_gradients_are_the_same_everywhere": [
        "packed, tied-data:2,model:2-True"
    ],
    "tests/models/test_encoder_decoder.py::"
    "test_decoding_step_by_step_gives_the_logits_of_whole_rows": ["3-data:1,model:1"],
    "tests/models/test_formulas.py::test_logits_are_the_formulas": [
        "defaults",
        "norm=layer,epsilon=0.3",
        "num_buckets=6,max_distance=11",
        "activation=gelu",
        "activation=swish",
    ],
    "tests/models/test_given_first_id.py::"
    "test_decoding_step_by_step_gives_the_logits_of_whole_rows": ["data:1,model:1"],
    "tests/models/test_kinds_of_attention.py::"
    "test_decoding_step_by_step_gives_the_logits_of_whole_rows": ["multi-query-data:1,model:1"],
    "tests/models/test_prefix_language_model.py::"
    "test_inputs_have_no_loss_with_loss_on_targets_only": ["True"],
    "tests/models/test_prefix_language_model.py::"
    "test_packed_pairs_have_the_logits_that_they_have_alone": ["data:1,model:1"],
    "tests/models/test_prefix_language_model.py::"
    "test_steps_after_the_prompt_give_the_logits_of_whole_sequences": ["relative-data:1,model:1"],
    "tests/models/test_reading_prompts.py::test_steps_give_the_logits_of_whole_sequences": [
        "local, relative, rotary"
    ],
    "tests/models/test_recorded_layers.py::test_the_experts_of_tokens_are_those_of_the_load": [
        "one level"
    ],
    "tests/models/test_stack.py::test_transforms_are_applied_in_the_order_of_their_lists": [
        "norm before-data:1,model:1",
        "norm before-data:2,model:2",
        "norm after-data:1,model:1",
        "norms before and after-data:1,model:1",
        "two residuals and one of the user's-data:1,model:1",
        "two residuals and one of the user's-data:2,model:2",
    ],
    "tests/models/test_stack.py::test_transforms_are_the_same_position_by_position": [
        "norms before and after",
        "two residuals and one of the user's",
    ],
    "tests/models/test_vocabulary_padding.py::"
    "test_logits_losses_and_gradients_are_those_without_padding": ["False-data:1,model:1"],
    "tests/models/test_vocabulary_padding.py::test_padding_is_never_predicted": [
        "greedy-data:1,model:1",
        "beams that need more than all ids-data:1,model:1",
    ],
    "tests/mtf/test_convolution_in_blocks.py::test_blocks_change_nothing_under_layouts": [
        "data:1,model:1--blocking0"
    ],
    "tests/mtf/test_pooling.py::test_depthwise_convolution_of_images_is_that_of_tensorflow": [
        "data:2,model:2-batch:data;channels:model-VALID-sizes1"
    ],
    "tests/mtf/test_pooling.py::test_depthwise_convolution_sums_shifted_products": [
        "data:4,model:2-length:data;channels:model--4-2"
    ],
    "tests/mtf/test_function.py::test_loops_of_many_programs_of_one_process_do_not_clash": [
        "data:2,model:2"
    ],
    "tests/mtf/test_top_k_in_blocks.py::test_products_and_gradients_equal_a_loop_over_rows": [
        "False-40-sizes3",
        "False-600-sizes6",
        "True-600-sizes14",
    ],
    "tests/mtf/test_halo.py::test_halo_exchange_adds_the_edges_of_both_neighbours": [
        *("1-data:1,model:1-False", "5-data:2,model:2-True")
    ],
    "tests/mtf/test_halo.py::test_left_halo_exchange_adds_the_edge_of_the_block_before": [
        *("1-data:1,model:1-True", "4-data:2,model:2-False")
    ],
    "tests/mtf/test_halo.py::test_shift_shifts_along_a_dimension": [
        "1-data:1,model:1-False",
        "1-data:1,model:1-True",
        "-3-data:2,model:2-True",
    ],
    "tests/mtf/test_pooling.py::test_max_pooling_in_blocks_equals_the_whole": [
        "3-2-SAME-data:1,model:1-",
        "3-2-SAME-data:2,model:2-row_blocks:data;column_blocks:model",
        "2-2-VALID-data:1,model:1-",
        "1-2-VALID-data:1,model:1-",
    ],
    "tests/mtf/test_pooling.py::test_pooling_drops_entries_that_do_not_fill_a_window": [
        "data:1,model:1-",
        "data:2,model:2-row_blocks:data;column_blocks:model",
        "data:2,model:2-batch:data;channels:model",
    ],
    "tests/mtf/test_gradients.py::test_numbers_and_gradients_are_those_of_ordinary_blocks": [
        "data:2,model:2"
    ],
    "tests/mtf/test_transposed_convolution.py::test_blocks_change_no_transposed_convolution": [
        "data:1,model:1--blocking0-calls0"
    ],
    "tests/mtf/test_transposed_convolution.py::test_blocks_of_a_volume_change_nothing": [
        *("data:1,model:1-", "data:2,model:2-depth_blocks:data;row_blocks:model")
    ],
    "tests/optim/test_layouts_of_optimizers.py::test_a_layout_changes_no_update": [
        "adafactor-data:2,model:2"
    ],
    "tests/optim/test_layouts_of_optimizers.py::"
    "test_splitting_slots_and_weights_further_changes_no_update": [
        "adafactor_factored_with_momentum-weights:data"
    ],
    "tests/oracle/test_attention.py::test_attention_equals_the_original": [
        "masks_0-data:1,model:1-",
        "local_block_bias_0-data:1,model:1-",
        "masks_1-data:1,model:1-",
        "masks_2-data:1,model:1-",
        "dot_product_attention_no_mask-data:1,model:1-",
        "dot_product_attention_causal_mask-data:2,model:1-heads:data",
        "dot_product_attention_extra_logit-data:1,model:1-",
        "dot_product_attention_fully_masked_row-data:1,model:1-",
        "multihead_attention_cross_padding-data:1,model:1-",
        "multihead_self_attention_incremental_beam-data:1,model:1-",
        "multihead_encdec_attention_incremental_beam-data:1,model:1-",
        "masked_local_attention_1d_window3_block4-data:1,model:1-",
        "masked_local_attention_1d_incremental_w4_beam-data:1,model:1-",
        "local_self_attention_spatial_blocks_both_sides-data:1,model:1-",
        "local_self_attention_spatial_blocks_mask_right-data:1,model:1-",
        "local_2d_self_attention_spatial_blocks_a-data:1,model:1-",
        "memory_compressed_attention_causal-data:1,model:1-",
    ],
    "tests/oracle/test_beam_steps.py::test_a_step_equals_the_original": [
        "alpha0_6_step0-False",
        "alpha0_no_stop_step3-False",
        "decode_length_step4-False",
        "eos3_step6-False",
    ],
    "tests/oracle/test_beam_steps.py::test_beam_search_equals_the_original": [
        *("alpha0_6_model-False", "beam_alpha0_6-False")
    ],
    "tests/oracle/test_beam_steps.py::"
    "test_greedy_decoding_equals_the_original_up_to_each_rows_end": [
        "greedy_plain-False",
        "greedy_forced_prefix-False",
        "greedy_forced_with_holes-False",
        "greedy_forced_contains_eos-False",
    ],
    "tests/oracle/test_gating.py::test_gate_equals_the_original": [
        "gating_top2_v1-train_threshold-data:1,model:1-",
        "gating_top2_v2-train_threshold_second_loss-data:1,model:1-",
        "gating_truncated-basic-data:1,model:1-",
        "gating_transformer-top_2_train_importance_z_loss-data:1,model:1-",
        "gating_transformer-switch_train_importance_z_loss-data:1,model:1-",
        "gating_transformer-switch_max_train_importance-data:1,model:1-",
        "gating_transformer-ntlb_tight-data:1,model:1-",
        "gating_transformer-top_n_importance_2-data:1,model:1-",
        "gating_transformer-expert_selection_train_importance-data:1,model:1-",
    ],
    "tests/oracle/test_moe_layers.py::test_layer_equals_the_original": [
        "moe_layers_transformer-v1_top_2_eval-data:1,model:1--einsum"
    ],
    "tests/oracle/test_t2t_resnet.py::test_the_seed_network_equals_the_original": [
        "one_block_each_train-data:1,model:1-"
    ],
    "tests/oracle/test_tensor2tensor_transformer.py::test_beam_searches": [
        "t2t_transformer_head/encdec-beam3-False"
    ],
    "tests/extras/grow/test_function.py::test_logits_stay_the_same": ["grouped heads, rotary"],
    "tests/extras/sweeps/test_shipped_sweeps.py::"
    "test_the_rows_of_a_shipped_sweep_are_configurations": [
        *(
            "extras/sweeps/distillation.gin",
            "extras/sweeps/mixtures.gin",
            "extras/sweeps/resnet.gin",
        )
    ],
    "tests/checkpoints/test_checkpoints.py::test_a_checkpoint_moves_between_meshes": [
        *("plain-2x2", "2x2-1x4", "1x4-4x1", "4x1-plain")
    ],
    "tests/processes/test_membership.py::test_a_lost_process_ends_the_others_with_one_line": [
        "9-1"
    ],
    "tests/oracle/test_tensor2tensor_transformer.py::test_greedy_decodes": [
        "t2t_transformer_head/lm_local_attention-greedy-False"
    ],
    "tests/oracle/test_tensor2tensor_transformer.py::test_logits_loss_and_gradients": [
        "t2t_transformer_2018/lm_packed-False"
    ],
    "tests/oracle/test_transformer.py::test_a_stored_checkpoint_gives_the_stored_logits": [
        "t5_1_1-False"
    ],
    "tests/oracle/test_transformer.py::test_a_trained_checkpoint_gives_the_loss_after_training": [
        "lm"
    ],
    "tests/oracle/test_transformer_layers.py::test_logits_losses_and_gradients": [
        "talking_heads_shared-False"
    ],
    "tests/oracle/test_transformer_layers.py::test_greedy_decodes": [
        "talking_heads_shared-greedy-False"
    ],
    "tests/oracle/test_transformer.py::test_greedy_decodes": ["lm_prefix-continue-False"],
    "tests/oracle/test_transformer.py::test_logits_losses_and_gradients": ["lm_packed-False"],
    "tests/oracle/test_transformer.py::test_steps_of_adafactor": ["lm-one device"],
    "tests/extras/serving/test_connections.py::"
    "test_a_wrong_body_ends_the_request_without_a_traceback": ["/x-secret"],
    "tests/faults/test_damage.py::test_every_cut_and_every_changed_bit_is_found": ["manifest-2-2"],
    "tests/extras/distillation/test_loss.py::test_the_loss_is_the_one_of_the_papers": ["vectors"],
    "tests/decoding/controls/test_processors.py::test_a_layout_changes_nothing": ["data:2,model:2"],
    "tests/extras/huggingface/test_id_processors.py::test_a_layout_changes_nothing": [
        "data:2,model:2"
    ],
    "tests/decoding/controls/test_whole_decodes.py::"
    "test_a_trace_has_the_log_probabilities_of_the_model": ["greedy, guided"],
    "tests/models/test_factorised_embedding.py::"
    "test_loss_and_gradients_are_those_of_the_products": [
        "decoder-data:2,model:2-batch:data;heads:model;d_ff:model;vocab:model"
    ],
    "tests/cli/test_hostile_input.py::test_every_line_gets_one_score_in_order": [
        "language model-pairs.tsv"
    ],
    "tests/layers/test_loss_in_blocks.py::test_blocks_change_neither_the_loss_nor_gradients": [
        "5-True"
    ],
    "tests/data/test_mixture_data.py::test_training_draws_examples_in_proportion_to_the_rates": [
        "rates0-shares0"
    ],
    "tests/mtf/test_reports.py::test_every_value_is_printed_once_under_every_layout": [
        "_in_loops-2x2"
    ],
}
