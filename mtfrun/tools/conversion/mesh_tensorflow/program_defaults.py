"""What the program of Mesh TensorFlow's transformer package binds before any file of the user.

The facts of mesh_tensorflow/transformer/gin/defaults.gin, mesh-tensorflow 0.1.21. A file that the
program wrote, operative_config.gin, has all values itself.
"""

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
