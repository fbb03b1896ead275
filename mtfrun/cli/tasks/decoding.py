"""Continuing prompts with the model of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.cli.tasks.experiment import Experiment

# Rows are made in lengths of powers of two from here on: a program is compiled for each.
_SHORTEST_ROW = 64


class Answer(NamedTuple):
    """A prompt and what the model made of it.

    Attributes:
      prompt: the text; bytes that are no UTF-8 are replaced in it, not in what the model reads.
      output: the continuation.
      prompt_tokens: tokens that the model read.
      truncated_tokens: tokens of the prompt's beginning that it did not, for lack of room.
      output_tokens: tokens of the output, without the end.
      finished: whether the model ended the text itself.
      valid_utf8: whether the prompt was UTF-8.
    """

    prompt: str
    output: str
    prompt_tokens: int
    truncated_tokens: int
    output_tokens: int
    finished: bool
    valid_utf8: bool


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How prompts are continued.

    experiment: whose model.
    batch_size: prompts at a time.
    max_length: tokens of a prompt and its output together; at most the model's.
    decode_length: tokens that are made for a prompt at most. A prompt that leaves no room for them
        (or for half of `max_length`, if that is less) is read from its end backwards.
    temperature: 0 takes the likeliest token each time, 1 draws from the model's distribution.
    top_k: draw among so many of the likeliest tokens; 0 for all.
    seed: of the draws.
    """

    experiment: Experiment
    batch_size: int
    max_length: int
    decode_length: int = 128
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0
    _programs: dict[int, Callable] = dataclasses.field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "decode_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative")
        if not 0 <= self.top_k <= self.experiment.vocabulary.size:
            raise ValueError(
                f"top_k={self.top_k} must be between 0 (all) and the "
                f"{self.experiment.vocabulary.size} ids of the vocabulary"
            )
        self.experiment.mesh.partition([mtf.Dimension("batch", self.batch_size)])

    def __call__(self, prompts: Sequence[bytes]) -> list[Answer]:
        """Returns an answer to each prompt, in order."""
        answers: dict[int, Answer] = {}
        rows = [self._encode(prompt) for prompt in prompts]
        for length, lines in self._batches(rows):
            made = self._generate(length, lines, [rows[line] for line in lines])
            for line, ids in zip(lines, made, strict=True):
                answers[line] = self._answer(prompts[line], len(rows[line]), ids)
        return [answers[line] for line in range(len(prompts))]

    def _encode(self, prompt: bytes) -> np.ndarray:
        room = min(self.decode_length, self.max_length // 2)
        kept = self.max_length - room
        return self.experiment.vocabulary.encode(prompt)[-kept:]

    def _batches(self, rows: Sequence[np.ndarray]) -> Iterator[tuple[int, list[int]]]:
        """Yields (length, numbers of at most `batch_size` rows), rows of like length together."""
        by_length: dict[int, list[int]] = {}
        for line, row in enumerate(rows):
            by_length.setdefault(self._row_length(len(row)), []).append(line)
        for length, lines in sorted(by_length.items()):
            for start in range(0, len(lines), self.batch_size):
                yield length, lines[start : start + self.batch_size]

    def _row_length(self, prompt_length: int) -> int:
        length = _SHORTEST_ROW
        while length < prompt_length + self.decode_length:
            length *= 2
        return min(length, self.max_length)

    def _generate(
        self, length: int, lines: Sequence[int], rows: Sequence[np.ndarray]
    ) -> np.ndarray:
        """Returns ids [lines, length]: the rows continued."""
        batch = mtf.Dimension("batch", self.batch_size)
        prompts = np.zeros([self.batch_size, length], np.int32)
        # The rows that fill up the batch are done at once.
        prompts[len(rows) :, 0] = self.experiment.vocabulary.end_id
        for i, row in enumerate(rows):
            prompts[i, : len(row)] = row
        numbers = np.zeros([self.batch_size], np.int32)
        numbers[: len(lines)] = lines
        if length not in self._programs:
            self._programs[length] = mtf.function(self._continue)
        made = self._programs[length](
            mtf.import_tf_tensor(
                self.experiment.mesh, prompts, [batch, mtf.Dimension("length", length)]
            ),
            mtf.import_tf_tensor(self.experiment.mesh, numbers, [batch]),
        )
        return mtf.to_numpy(made)[: len(rows)]

    def _continue(self, prompts: mtf.Tensor, lines: mtf.Tensor) -> mtf.Tensor:
        vocabulary = self.experiment.vocabulary
        vocab = mtf.Dimension("vocab", vocabulary.size)
        choose: decoding.ChooseToken = decoding.Greedy(vocab)
        if self.temperature:
            key = mtf.random_key(self.seed)
            choose = decoding.Sample(vocab, key, lines, self.temperature, self.top_k)
        decoder = self.experiment.model.decoder({"targets": prompts})
        return decoding.generate(decoder, prompts, choose, end_id=vocabulary.end_id)

    def _answer(self, prompt: bytes, prompt_length: int, ids: np.ndarray) -> Answer:
        vocabulary = self.experiment.vocabulary
        made = ids[prompt_length : prompt_length + self.decode_length]
        ends = np.flatnonzero(made == vocabulary.end_id)
        text = prompt.decode("utf-8", "replace")
        return Answer(
            prompt=text,
            output=vocabulary.decode(made),
            prompt_tokens=prompt_length,
            truncated_tokens=len(vocabulary.encode(prompt)) - prompt_length,
            output_tokens=int(ends[0]) if ends.size else int(np.count_nonzero(made)),
            finished=bool(ends.size),
            valid_utf8=text.encode() == prompt,
        )
