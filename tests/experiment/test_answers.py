"""Answers to prompts, of the hypotheses that a search has found."""

from __future__ import annotations

import numpy as np

from mtfrun.data import EncoderDecoderPrompts, IdVocabulary, PromptLimits
from mtfrun.decoding import Controls, Hypothesis, Rules
from mtfrun.experiment.answers import AnswerWriter


def test_padding_that_the_model_chose_takes_no_token_from_the_end_of_an_output() -> None:
    vocabulary = IdVocabulary(size=16)
    limits = PromptLimits(max_length=8, decode_length=4)
    prompts = EncoderDecoderPrompts(vocabulary, vocabulary, {"inputs": 8, "targets": 8}, limits)
    writer = AnswerWriter(prompts, Controls(), Rules())
    found = Hypothesis(np.array([7, 0, 8, 9, 0, 0, 0, 0]), -1.0, finished=False)
    answer = writer.answer(b"5 6", prompts.row(b"5 6"), [found])
    assert (answer.output, answer.output_tokens, answer.finished) == ("7 8 9", 4, False)
