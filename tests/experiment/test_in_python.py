"""An experiment of plain Python objects, without gin files and commands, as in a notebook."""

from __future__ import annotations

import functools
import pathlib

import numpy as np
import pytest

from mtfrun import data, mtf, optim, training
from mtfrun.data import EncoderDecoderPrompts, IdVocabulary, PromptLimits
from mtfrun.decoding import Controls, Hypothesis, Rules
from mtfrun.errors import InputError
from mtfrun.experiment import Decoding, Evaluation, Experiment, Training
from mtfrun.experiment.inference.answers import AnswerWriter
from mtfrun.models.transformer import (
    AttentionHeads,
    DecoderOnly,
    FeedForward,
    SelfAttention,
    Stack,
    TokenEmbedding,
)
from mtfrun.rundir import RunDirectory
from mtfrun.rundir.init_checkpoint import InitCheckpoint
from tests.layouts import ONE_DEVICE


def language_model(
    text_file: pathlib.Path,
    *,
    dropout_rate: float = 0.0,
    init_checkpoint: InitCheckpoint | None = None,
) -> Experiment:
    """Returns a language model of one layer and the text of a file, as both splits."""
    layers = [
        functools.partial(SelfAttention, heads=AttentionHeads(num_heads=2, d_kv=8)),
        functools.partial(FeedForward, d_ff=32, dropout_rate=dropout_rate),
    ]
    model = functools.partial(
        DecoderOnly,
        embedding=TokenEmbedding(d_model=16, max_length=16),
        stack=functools.partial(Stack, num_layers=1, layers=layers),
    )
    source = data.TextFiles({"train": str(text_file), "validation": str(text_file)})
    rows = data.LanguageModelData(data.Task(source, data.ByteVocabulary()), length=16)
    return Experiment(mtf.Mesh(ONE_DEVICE), model, rows, init_checkpoint=init_checkpoint)


@pytest.mark.slow
def test_an_experiment_is_trained_evaluated_restored_and_decoded(tmp_path: pathlib.Path) -> None:
    text_file = tmp_path / "text.txt"
    text_file.write_text("abc" * 200)
    experiment = language_model(text_file)
    evaluation = Evaluation(experiment, batch_size=4)
    options = training.TrainOptions(train_steps=20)
    trainer = Training(experiment, evaluation, optim.Adam(learning_rate=0.03), options, 8)
    run = RunDirectory(tmp_path / "run")
    run.prepare()
    with run.lock():
        assert trainer.run(run).step == 20
    metrics = evaluation(20)
    assert metrics["accuracy"] > 0.9
    (answer,) = Decoding(experiment, batch_size=1, max_length=16, decode_length=6)([b"abc"])
    assert answer.output == "abcabc"

    with pytest.raises(InputError, match="Inference of DecoderOnly does not decode: "):
        experiment.inference.records([b"abc"])

    restored = language_model(text_file)
    assert restored.restore(run, None) == 20
    assert Evaluation(restored, batch_size=4)(20) == pytest.approx(metrics, rel=1e-6)


def test_padding_that_the_model_chose_takes_no_token_from_the_end_of_an_output() -> None:
    vocabulary = IdVocabulary(size=16)
    limits = PromptLimits(max_length=8, decode_length=4)
    prompts = EncoderDecoderPrompts(vocabulary, vocabulary, {"inputs": 8, "targets": 8}, limits)
    writer = AnswerWriter(prompts, Controls(), Rules())
    found = Hypothesis(np.array([7, 0, 8, 9, 0, 0, 0, 0]), -1.0, finished=False)
    answer = writer.answer(b"5 6", prompts.row(b"5 6"), [found])
    assert (answer.output, answer.output_tokens, answer.finished) == ("7 8 9", 4, False)
