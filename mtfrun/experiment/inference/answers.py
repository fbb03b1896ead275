"""Answers to prompts: outputs as texts, and the log-probabilities of their tokens."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import decoding
from mtfrun.data import PromptFormat, PromptRow
from mtfrun.experiment.records import Record


class LogProb(NamedTuple):
    """The log-probability of an id in nats, without processors and temperature; its text."""

    id: int
    token: str
    log_prob: float


class TokenLogProb(NamedTuple):
    """As `LogProb`, of an id of an output; `top`: of the most likely ids at its position."""

    id: int
    token: str
    log_prob: float
    top: list[LogProb]


class Output(NamedTuple):
    """One output for a prompt.

    Attributes:
      score: log-probability; with beam search, divided by the length penalty.
      tokens: number of tokens of the text, without the end.
      finished: whether it ends with the end id, not at the limit of its length.
      log_probs: log-probabilities of its tokens and the end id, if `Controls.log_probs` is set.
    """

    text: str
    score: float
    tokens: int
    finished: bool
    log_probs: list[TokenLogProb] | None = None


class Answer(NamedTuple):
    """A prompt and its outputs.

    Attributes:
      prompt: the text, with U+FFFD for invalid UTF-8, which the model reads as it is.
      outputs: best first; samples in the order in which they were drawn. `output`, `output_tokens`
        and `finished` are of the first one.
      truncated_tokens: number of tokens of the prompt that were cut off.
    """

    prompt: str
    output: str
    outputs: list[Output]
    prompt_tokens: int
    truncated_tokens: int
    output_tokens: int
    finished: bool
    valid_utf8: bool


def record_of(answer: Answer) -> Record:
    """Returns the answer as a JSON line, and its texts."""
    outputs = []
    for output in answer.outputs:
        outputs.append(fields := output._asdict())
        if output.log_probs is None:
            del fields["log_probs"]
        else:
            fields["log_probs"] = [
                {**token._asdict(), "top": [other._asdict() for other in token.top]}
                for token in output.log_probs
            ]
    texts = [output.text for output in answer.outputs]
    return Record({**answer._asdict(), "outputs": outputs}, texts)


@dataclasses.dataclass(frozen=True)
class AnswerWriter:
    """Writes answers of hypotheses that a search has found by these controls and rules."""

    prompt_format: PromptFormat
    controls: decoding.Controls
    rules: decoding.Rules

    def answer(
        self, prompt: bytes, row: PromptRow, hypotheses: Sequence[decoding.Hypothesis]
    ) -> Answer:
        """Returns the answer of a prompt, of hypotheses of its row."""
        text = prompt.decode("utf-8", "replace")
        outputs = [self._output(hypothesis, row) for hypothesis in hypotheses]
        first = outputs[0]
        return Answer(
            prompt=text,
            output=first.text,
            outputs=outputs,
            prompt_tokens=row.read,
            truncated_tokens=row.truncated,
            output_tokens=first.tokens,
            finished=first.finished,
            valid_utf8=text.encode() == prompt,
        )

    def _output(self, hypothesis: decoding.Hypothesis, row: PromptRow) -> Output:
        ids = hypothesis.ids[row.prefix : row.limit]
        length = self.rules.length(ids)
        # A search as transformers' takes only end ids for ends.
        finished = hypothesis.finished or (self.rules.guide is not None and length is not None)
        if length is None:
            length = len(ids)  # a model may also choose the id of padding
        text = self.controls.cut(self.prompt_format.output(ids[:length]))
        log_probs = None
        if hypothesis.trace:
            has_end = np.isin(ids[length : length + 1], self.rules.end_ids).any()
            begin, end = row.prefix, row.prefix + length + int(has_end)
            log_probs = self._log_probs(
                hypothesis.ids[begin:end], [x[begin:end] for x in hypothesis.trace]
            )
        return Output(text, hypothesis.score, length, finished, log_probs)

    def _log_probs(self, ids: np.ndarray, trace: Sequence[np.ndarray]) -> list[TokenLogProb]:
        text_of = self.prompt_format.output_vocabulary.token_text
        number = self.controls.log_probs or 0
        result = []
        for token, log_prob, top_ids, top_log_probs in zip(ids, *trace, strict=True):
            top = [
                LogProb(int(i), text_of(int(i)), float(x))
                for i, x in zip(top_ids[:number], top_log_probs[:number], strict=True)
            ]
            result.append(TokenLogProb(int(token), text_of(int(token)), float(log_prob), top))
        return result


def token_texts(prompt_format: PromptFormat, size: int) -> decoding.TokenTexts:
    """Returns what the ids of a model write, of which there are `size`."""
    texts = prompt_format.output_vocabulary.token_bytes
    # A model may have more ids than its vocabulary.
    texts = [*texts, *[b""] * (size - len(texts))]
    spaced = next((i for i, text in enumerate(texts) if re.fullmatch(rb" \w+", text)), None)
    loses_space = spaced is not None and not prompt_format.output(np.array([spaced])).startswith(
        " "
    )
    return decoding.TokenTexts(texts, loses_space)
