"""Decoding of prompts with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, TypeVar

from mtfrun import decoding
from mtfrun.configuration.ranges import range_of
from mtfrun.data import (
    INPUTS,
    TARGETS,
    ConversationTemplate,
    LanguageModelPrompts,
    PromptFormat,
    PromptLimits,
    TextData,
)
from mtfrun.display.progress import Work
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.inference.answers import Answer, AnswerWriter, record_of, token_texts
from mtfrun.experiment.inference.decoding_batches import DecodingBatches, DecodingSpeed
from mtfrun.experiment.inference.scoring import Scoring
from mtfrun.experiment.records import Progress, Prompts, Record, Source, require
from mtfrun.models import TextModel

T = TypeVar("T")

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Classification"


@dataclasses.dataclass(frozen=True)
class Decoding(Inference):
    """Decodes prompts: models of pairs of texts answer them, language models continue them.

    Attributes:
      experiment: has a TextModel and TextData.
      batch_size: prompts of a batch; more if the mesh splits a batch into more parts, or a prompt
        has more samples.
      max_length: maximum number of tokens of prompt and output, where prompts are continued.
      decode_length: maximum number of tokens of an output.
      decode_length_multiplier, decode_length_constant: limits of answers to prompts, which also
        have at most (tokens of the prompt) * multiplier + constant tokens.
      num_outputs: number of outputs for each prompt: at most the search's `beam_size`, or any
        number of samples.
      search: greedy decoding, beam search or sampling.
      speed: how time is saved, which changes no output.
      chat: the template that makes conversations of prompts; None for prompts as they are, "data"
        for the form of the data. Only `with_settings` changes it, and keeps it.
    """

    settings: ClassVar[Sequence[str]] = (
        *("beam_size", "num_outputs", "alpha", "temperature", "top_k", "top_p"),
        *("decode_length", "seed", "stop", "log_probs", "draft", "draft_tokens", "chat"),
    )

    experiment: Experiment
    batch_size: int
    max_length: int
    decode_length: int = 128
    decode_length_multiplier: float = 1.5
    decode_length_constant: int = 10
    num_outputs: int = 1
    search: decoding.Search = dataclasses.field(default_factory=decoding.Search)
    speed: DecodingSpeed = dataclasses.field(default_factory=DecodingSpeed)
    chat: ConversationTemplate | Literal["data"] | None = dataclasses.field(
        default="data", init=False
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "decode_length", "num_outputs"):
            check_range(name, getattr(self, name), range_of(__name__, name) or COUNT)
        if self.num_outputs > self.search.beam_size and not self.search.temperature:
            most = f"at most beam_size={self.search.beam_size}, or sample with a temperature"
            raise InputError(f"num_outputs={self.num_outputs} must be {most}")
        self.search.check(self.data.vocabulary.size)
        require(self.experiment.model, TextModel, type(self).__name__, _REMEDY)
        if self.speed.draft is not None:
            if self.search.beam_size > 1:
                what = f"beam_size={self.search.beam_size}"
                raise InputError(f"{what} and a draft: leave one of them out")
            self.speed.draft.check(self.data, self._limits)

    def __call__(self, prompts: Sequence[bytes], progress: Progress | None = None) -> list[Answer]:
        """Answers each prompt; InputError for an empty one that the model cannot continue."""
        # Each sample of a prompt is a separate row.
        samples = self.batches.samples
        rows = [row for prompt in prompts for row in [self.prompt_format.row(prompt)] * samples]
        if not self.model.predicts_first_id and not all(row.prefix for row in rows):
            raise InputError("a prompt is empty: the model does not predict a text's first token")
        with Work("decoding", len(prompts), "prompts") as work:

            def report(rows: int) -> None:
                work.move_to(rows // samples)
                if progress is not None:
                    progress(rows // samples)

            hypotheses = self.batches.decode(rows, report)
        answers = []
        for prompt, first in zip(prompts, range(0, len(rows), samples), strict=True):
            outputs = [x for best in hypotheses[first : first + samples] for x in best]
            answers.append(self.writer.answer(prompt, rows[first], outputs[: self.num_outputs]))
        return answers

    @property
    def example(self) -> str:
        is_chat = self.data.conversation_template is not None
        return "chat" if is_chat else "decode --interactive"

    def for_single_inputs(self) -> Self:
        return self._replace_settings({"batch_size": 1})

    def report(self) -> str | None:
        tokens, steps = map(sum, zip((0, 0), *self.batches.accepted, strict=True))
        self.batches.accepted.clear()
        if self.speed.draft is None or not steps:
            return None
        return self.speed.draft.describe(tokens, steps, self.speed.draft_tokens)

    def read(self, source: Source) -> Sequence[bytes]:
        """Returns the prompts of a source; for a split of the data, its inputs or running text."""
        if source.split is None:
            return source.texts()
        prompts, fields = Prompts(), []
        for index, example in enumerate(self.data.examples(source.split)):
            prompts.append(example.get(INPUTS, example[TARGETS]))
            target = {"target": _text(example[TARGETS])} if INPUTS in example else {}
            fields.append({"split": source.split, "index": index, **target})
        prompts.fields = fields
        return prompts

    def records(self, inputs: Sequence[bytes], progress: Progress | None = None) -> list[Record]:
        records = [record_of(answer) for answer in self(inputs, progress)]
        if not isinstance(inputs, Prompts):
            return records
        return [
            record._replace(fields={**fields, **record.fields})
            for record, fields in zip(records, inputs.fields, strict=True)
        ]

    def pairs(self, split: str) -> Sequence[tuple[bytes, bytes]]:
        """Returns the (input, target) pairs of a split; the inputs of running text are empty."""
        examples = self.data.examples(split)
        return [(example.get(INPUTS, b""), example[TARGETS]) for example in examples]

    def scores(
        self, pairs: Sequence[tuple[bytes, bytes]], *, with_end: bool = True
    ) -> list[Record]:
        scores = self.scoring(pairs, with_end=with_end)
        return [
            Record({"input": _text(inputs), "target": _text(target), **score._asdict()})
            for (inputs, target), score in zip(pairs, scores, strict=True)
        ]

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        if settings.get("chat") is not None and INPUTS in self.data.features:
            raise InputError("a chat is for language models, and this one reads pairs of texts")
        if settings.get("beam_size", 1) > 1:
            # Who asks for beams does without the temperature that the configuration has.
            settings = {"temperature": 0.0, **settings}
        controls = _replace_fields(self.search.controls, settings)
        search = _replace_fields(self.search, {**settings, "controls": controls})
        speed = _replace_fields(self.speed, settings)
        replaced = _replace_fields(self, {**settings, "search": search, "speed": speed})
        object.__setattr__(replaced, "chat", settings.get("chat", self.chat))
        return replaced

    @functools.cached_property
    def data(self) -> TextData:
        return require(self.experiment.data, TextData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def model(self) -> TextModel:
        return require(self.experiment.model, TextModel, type(self).__name__, _REMEDY)

    @property
    def _limits(self) -> PromptLimits:
        return PromptLimits(
            self.max_length,
            self.decode_length,
            self.decode_length_multiplier,
            self.decode_length_constant,
        )

    @functools.cached_property
    def prompt_format(self) -> PromptFormat:
        data = self.data
        if self.chat is None and data.conversation_template is not None:
            return LanguageModelPrompts(data.vocabulary, self._limits)
        if self.chat is None or isinstance(self.chat, str):
            return data.prompt_format(self._limits)
        return self.chat.prompt_format(data.vocabulary, self._limits)

    @functools.cached_property
    def scoring(self) -> Scoring:
        return Scoring(self.experiment, self.batch_size, self._limits)

    @functools.cached_property
    def batches(self) -> DecodingBatches:
        """Decodes the rows of prompts, with programs that are cached."""
        # All outputs of a beam search are of one row.
        samples = self.num_outputs if self.search.temperature else 1
        return DecodingBatches(
            self.experiment,
            self.model,
            self.prompt_format,
            self.writer.rules,
            self.search,
            self.speed,
            size=self.experiment.rows_for(max(self.batch_size, samples)),
            samples=samples,
        )

    @functools.cached_property
    def writer(self) -> AnswerWriter:
        """Writes answers, by the rules of the search and what ends an output of the prompts' form.

        Rules with constraints or stop texts may take seconds to make.
        """
        controls, prompts = self.search.controls, self.prompt_format
        controls = dataclasses.replace(
            controls,
            stop=[*controls.stop, *prompts.stop],
            end_ids=[*controls.end_ids, *prompts.end_ids],
        )
        rules = controls.rules(
            self.data.vocabulary.end_id, lambda: token_texts(prompts, self.model.vocab.size)
        )
        return AnswerWriter(prompts, controls, rules)


def _replace_fields(value: T, settings: Mapping[str, Any]) -> T:
    """Returns a copy of a dataclass with the settings that are its fields."""
    fields = dataclasses.fields(value)  # type: ignore[arg-type]
    names = {field.name for field in fields if field.init}
    changes = {name: x for name, x in settings.items() if name in names}
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]


def _text(text: bytes) -> str:
    return text.decode("utf-8", "replace")
