"""Gin files of Mesh TensorFlow and T5: what is written, and what becomes of every binding."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mtfrun.conversion import ConversionError
from mtfrun.conversion.importer import Imported
from mtfrun.conversion.mesh_tensorflow import MeshTensorFlowImporter

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


def _imported(text: str, tmp_path: pathlib.Path, *, partial: bool = False) -> Imported:
    path = tmp_path / "model.gin"
    path.write_text(SMALL + text)
    return MeshTensorFlowImporter().read(path, partial=partial)


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
        ("Unitransformer.loss_denominator = 233472\n", ["denominator = 233472.0"]),
        ("decoder/Unitransformer.label_smoothing = 0.1\n", ["label_smoothing = 0.1"]),
        ("run.sequence_length = {'inputs': 64, 'targets': 30}\n", ["TARGETS_LENGTH = 30"]),
        ("run.mesh_shape = 'rows:4,model:2'\n", ['MESH_SHAPE = "rows:4,model:2"']),
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
        ("Bitransformer.decode.beam_size = 4\n", ["decoding.Search:\n    beam_size = 4"]),
        (
            "run.model_type = 'lm'\n",
            ['include "models/decoder_only.gin"', "num_heads = %NUM_HEADS"],
        ),
        (
            "run.model_type = 'delimited_lm'\nUnitransformer.input_full_attention = True\n",
            ["prefix = True", 'include "data/delimited_pairs.gin"'],
        ),
        (
            "run.train_dataset_fn = @t5.models.mesh_transformer.mesh_train_dataset_fn\n"
            "mesh_train_dataset_fn.mixture_or_task_name = 'glue_cola_v002'\n",
            ["glue_cola_v002", "TRAINING_DATA = @data.NoSource()"],
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
        ("SelfAttention.shared_kv = True\n", "SelfAttention.shared_kv", "projections"),
        ("Unitransformer.ensemble = 2\n", "Unitransformer.ensemble", "ensembles"),
        ("SelfAttention.colour = 1\n", "SelfAttention.colour", "unknown parameter"),
        ("mine.Layer.size = 1\n", "Layer.size", "unknown class"),
        ("run.optimizer = @mine.Optimizer\n", "run.optimizer", "Optimizer is not supported"),
        (
            "LayerStack.sublayers_final = [@transformer.sublayer_scale_norm]\n",
            "LayerStack.sublayers_final",
            "sublayer_scale_norm is not supported",
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
    assert lists["without meaning here"] == {
        "run.mode": "'eval': every mode of the original's program is a command here",
        "LocalSelfAttention.radius": "3: nothing in this configuration uses it",
        "unused": "1: nothing in this configuration uses it",
    }
    assert lists["taken over"]["num_layers"] == "2"


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
        assert "TRAINING_DATA and VOCABULARY" in lists["without meaning here"][name]


def test_shared_layers_are_taken_over(tmp_path: pathlib.Path) -> None:
    layer = "@transformer_layers"
    text = f"""
encoder/make_layer_stack.layers = [('a', {layer}.SelfAttention), ('b', {layer}.DenseReluDense)]
decoder/make_layer_stack.layers = [
    ('a', {layer}.SelfAttention), ('c', {layer}.EncDecAttention), ('b', {layer}.DenseReluDense)]
make_bitransformer.encoder_name = 'decoder'
"""
    assert "model = @ported.SharedLayersEncoderDecoder" in _text(_imported(text, tmp_path))


@pytest.mark.parametrize("text", ["run.mesh_shape = 'four'\n", "run.batch_size = ('rows', 3)\n"])
def test_a_value_that_cannot_be_read_is_an_error(text: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match="run"):
        _imported(text, tmp_path)


def test_a_macro_without_a_value_is_an_error_where_it_is_needed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConversionError, match="%size, which it never defines"):
        _imported("Unitransformer.d_model = %size\n", tmp_path)
    lists = _lists(_imported("get_vocabulary.mixture_or_task_name = %NAME\n", tmp_path))
    assert "get_vocabulary.mixture_or_task_name" in lists["without meaning here"]
