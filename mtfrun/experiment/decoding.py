"""Decoding of prompts with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.checks import COUNT, check_range
from mtfrun.configuration.arguments import range_of
from mtfrun.data import (
    INPUTS,
    TARGETS,
    ConversationPrompts,
    ConversationTemplate,
    LanguageModelPrompts,
    PromptFormat,
    PromptLimits,
    PromptRow,
    TextData,
)
from mtfrun.display.progress import Work
from mtfrun.errors import InputError
from mtfrun.experiment.answers import Answer, AnswerWriter, record_of, token_texts
from mtfrun.experiment.common_beginnings import CommonBeginnings
from mtfrun.experiment.decoding_batches import Batch, Batching, DecodingShape
from mtfrun.experiment.decoding_speed import (
    DecodingSpeed,
    concurrent_map,
    describe_use,
    number_of_threads,
)
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.records import Progress, Prompts, Record, Source, require
from mtfrun.experiment.scoring import Score, Scoring
from mtfrun.models import TextModel

# Samples of a prompt use line numbers this far apart, so that they do not collide with prompts.
_SAMPLES_APART = 10_000_019

_REMEDY = "set Experiment.inference to one that fits, such as @experiment.Classification"


@dataclasses.dataclass(frozen=True)
class Decoding(Inference):
    """Decodes prompts: models of pairs of texts answer them, language models continue them.

    Attributes:
      experiment: has a TextModel and TextData.
      batch_size: prompts of a batch; more if the mesh splits a batch into more parts, or a prompt
        has more samples.
      max_length: where prompts are continued, maximum number of tokens of prompt and output.
      decode_length: maximum number of tokens of an output.
      decode_length_multiplier, decode_length_constant: where prompts are answered, outputs also
        have at most (tokens of the prompt) * multiplier + constant tokens.
      num_outputs: number of outputs for each prompt: at most the search's `beam_size`, or any
        number of samples.
      search: greedy decoding, beam search or sampling.
      speed: how time is saved, which changes no output.
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
    _programs: dict[DecodingShape, Callable[..., Any]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _speculated: list[tuple[int, int]] = dataclasses.field(
        default_factory=list, init=False, repr=False, compare=False
    )
    # Makes the form of prompts; None for the data's.
    _form: Callable[[PromptLimits], PromptFormat] | None = dataclasses.field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_length", "decode_length", "num_outputs"):
            check_range(name, getattr(self, name), range_of(__name__, name) or COUNT)
        if self.num_outputs > self.search.beam_size and not self.search.temperature:
            raise InputError(
                f"num_outputs={self.num_outputs} must be at most beam_size={self.search.beam_size},"
                " or be drawn at random with a temperature such as 0.8"
            )
        self.search.check(self.data.vocabulary.size)
        require(self.experiment.model, TextModel, type(self).__name__, _REMEDY)
        if self.speed.draft is not None and self.search.beam_size > 1:
            raise InputError(
                f"beam_size={self.search.beam_size} and a draft, which is for greedy decoding and"
                " sampling: leave one of them out"
            )
        self.speed.check(self.data, self._limits)

    def __call__(self, prompts: Sequence[bytes], progress: Progress | None = None) -> list[Answer]:
        """Answers each prompt; InputError for an empty one that the model cannot continue."""
        # Each sample of a prompt is a separate row.
        samples = self._samples
        rows = [row for prompt in prompts for row in [self.prompt_format.row(prompt)] * samples]
        hypotheses: dict[int, Sequence[decoding.Hypothesis]] = {}
        if not self.predicts_first_id and not all(row.prefix for row in rows):
            raise InputError(
                "a prompt is empty, and the model does not predict the first token of a text: begin"
                " it with one"
            )
        batches = list(self._batching(rows))
        threads = number_of_threads(self.experiment.mesh, self.speed.concurrent_batches)
        with (
            Work("decoding", len(prompts), "prompts") as work,
            concurrent_map(threads) as map_batches,
        ):
            results = map_batches(functools.partial(self._search_batch, rows), batches)
            for batch, of_batch in zip(batches, results, strict=True):
                for i, row in enumerate(batch.rows):
                    hypotheses[row] = decoding.n_best(of_batch, i)[: self.num_outputs]
                work.move_to(len(hypotheses) // samples)
                if progress is not None:
                    progress(len(hypotheses) // samples)
        answers = []
        for prompt, first in zip(prompts, range(0, len(rows), samples), strict=True):
            of_prompt = [x for row in range(first, first + samples) for x in hypotheses[row]]
            answers.append(self._writer.answer(prompt, rows[first], of_prompt))
        return answers

    @property
    def example(self) -> str:
        is_chat = self.data.conversation_template is not None
        return "--chat --interactive" if is_chat else "--interactive"

    def for_single_inputs(self) -> Self:
        return self._replace(self._form, batch_size=1)

    def with_controls(self, **changes: Any) -> Self:
        """Returns a copy with other values of some of the search's `Controls`."""
        controls = dataclasses.replace(self.search.controls, **changes)
        return self._replace(self._form, search=dataclasses.replace(self.search, controls=controls))

    def report(self) -> str | None:
        tokens, steps = map(sum, zip((0, 0), *self._speculated, strict=True))
        self._speculated.clear()
        return describe_use(tokens, steps, self.speed.draft_tokens) if steps else None

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
        scores = self.score(pairs, with_end=with_end)
        return [
            Record({"input": _text(inputs), "target": _text(target), **score._asdict()})
            for (inputs, target), score in zip(pairs, scores, strict=True)
        ]

    def score(self, pairs: Sequence[tuple[bytes, bytes]], *, with_end: bool = True) -> list[Score]:
        """Returns the score of each target, see `Scoring`."""
        return self._scoring(pairs, with_end=with_end)

    def _replace_settings(self, settings: Mapping[str, Any]) -> Self:
        form = self._form
        if "chat" in settings:
            form = self._form_of(settings["chat"])
            settings = {name: value for name, value in settings.items() if name != "chat"}
        fields, of_speed = ({f.name for f in dataclasses.fields(x)} for x in (self, self.speed))
        of_decoding = {name: value for name, value in settings.items() if name in fields}
        speed = {name: value for name, value in settings.items() if name in of_speed}
        search_settings = {
            name: value for name, value in settings.items() if name not in fields | of_speed
        }
        controls = {
            name: search_settings.pop(name)
            for name in ("stop", "log_probs")
            if name in search_settings
        }
        if controls:
            search_settings["controls"] = dataclasses.replace(self.search.controls, **controls)
        if search_settings.get("beam_size", 1) > 1:
            # Who asks for beams does without the temperature that the configuration has.
            search_settings = {"temperature": 0.0, **search_settings}
        return self._replace(
            form,
            search=dataclasses.replace(self.search, **search_settings),
            speed=dataclasses.replace(self.speed, **speed),
            **of_decoding,
        )

    def _replace(self, form: Callable[[PromptLimits], PromptFormat] | None, **fields: Any) -> Self:
        replaced = dataclasses.replace(self, **fields)
        object.__setattr__(replaced, "_form", form)
        return replaced

    def _form_of(
        self, template: ConversationTemplate | None
    ) -> Callable[[PromptLimits], PromptFormat]:
        """Returns the form of conversations, without a template that of texts."""
        data = self.data
        if template is None:
            if data.conversation_template is None:
                return data.prompt_format
            return functools.partial(LanguageModelPrompts, data.vocabulary)
        if INPUTS in self.data.features:
            raise InputError("a chat is for language models, and this one reads pairs of texts")
        return functools.partial(ConversationPrompts, data.vocabulary, template=template)

    @functools.cached_property
    def data(self) -> TextData:
        return require(self.experiment.data, TextData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def model(self) -> TextModel:
        return require(self.experiment.model, TextModel, type(self).__name__, _REMEDY)

    @functools.cached_property
    def _scoring(self) -> Scoring:
        return Scoring(self.experiment, self.batch_size, self._limits)

    @property
    def _samples(self) -> int:
        """The number of rows of a prompt: one per sample; one for all outputs of a beam search."""
        return self.num_outputs if self.search.temperature else 1

    @property
    def _limits(self) -> PromptLimits:
        of_answers = (self.decode_length_multiplier, self.decode_length_constant)
        return PromptLimits(self.max_length, self.decode_length, *of_answers)

    @functools.cached_property
    def rows(self) -> int:
        return self.experiment.rows_for(max(self.batch_size, self._samples))

    @functools.cached_property
    def prompt_format(self) -> PromptFormat:
        return (self._form or self.data.prompt_format)(self._limits)

    @property
    def predicts_first_id(self) -> bool:
        """Whether prompts may be empty."""
        return self.model.predicts_first_id

    def shape_of(self, row: PromptRow) -> DecodingShape:
        return self._batching.shape_of(row)

    @functools.cached_property
    def _common_beginnings(self) -> CommonBeginnings:
        return CommonBeginnings(self.experiment, self.model, self.prompt_format)

    @functools.cached_property
    def _batching(self) -> Batching:
        share = self.speed.share_beginnings
        return Batching(self.model, self.prompt_format, self._common_beginnings, self.rows, share)

    def _search_batch(self, all_rows: Sequence[PromptRow], batch: Batch) -> decoding.Hypotheses:
        """Returns arrays [rows, beam, ...], and then the arrays of rows that pad the batch."""
        mesh, shape, indices = self.experiment.mesh, batch.shape, batch.rows
        rows = [all_rows[index] for index in indices]
        batch_dim = mtf.Dimension("batch", self.rows)
        arrays = self.prompt_format.features(rows, self.rows, dict(shape.lengths))
        features = {
            name: mtf.import_tf_tensor(
                mesh, x, [batch_dim, *(mtf.Dimension("length", size) for size in x.shape[1:])]
            )
            for name, x in arrays.items()
        }
        # Rows of padding have the limit 0, so that they are finished from the beginning.
        lines_and_limits = np.zeros([2, self.rows], np.int32)
        lines_and_limits[:, : len(rows)] = [
            [line_of_draws(*divmod(index, self._samples)) for index in indices],
            [row.limit for row in rows],
        ]
        lines, limits = (mtf.import_tf_tensor(mesh, x, [batch_dim]) for x in lines_and_limits)
        beginning = None
        if batch.beginning is not None:
            beginning = self._common_beginnings.read(batch.beginning)
        result = mtf.to_numpy(self.program(shape)(features, lines, limits, beginning))
        if self.speed.draft is not None:
            result, tokens, steps = result
            self._speculated.append((int(tokens.sum()), int(steps.sum())))
        self.experiment.require_finite(result.scores[: len(rows)], "scores of outputs")
        hypotheses: decoding.Hypotheses = result
        return hypotheses

    def program(self, shape: DecodingShape) -> Callable[..., Any]:
        """Returns the function that decodes batches of a shape into Hypotheses; thread-safe.

        It takes the features {batch, length} by name, and {batch} int32 the rows' numbers in the
        input and the largest numbers of their ids, 0 for rows of padding; with remaining ids also
        what `CommonBeginnings.read` returns. With a draft it returns a Speculation.
        """
        settings: dict[str, Any] = {
            "longest_prompt": self.prompt_format.longest_prefix(dict(shape.lengths)),
            "padding_id": self.data.vocabulary.pad_id,
            "rules": self._rules,
        }

        def decode(
            features: Mapping[str, mtf.Tensor],
            lines: mtf.Tensor,
            limits: mtf.Tensor,
            beginning: tuple[Any, mtf.Tensor] | None = None,
        ) -> decoding.Hypotheses | decoding.Speculation:
            def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
                decoder = self.model.decoder(features, beam)
                if beginning is not None:
                    assert decoder.after is not None
                    return decoder.after(decoding.Beginning(*beginning, shape.remaining))
                return decoder if shape.prefill else decoder.step_by_step()

            prompts, vocab = features[TARGETS], self.model.vocab
            with mtf.read_once(self._named_variables()):
                if self.speed.draft is None:
                    return self.search(
                        decoder_for, prompts, vocab, lines=lines, limits=limits, **settings
                    )
                result = decoding.speculate(
                    decoder_for(None),
                    prompts,
                    self.search.choice(vocab, lines),
                    self.speed.make_draft(self.search, features, lines),
                    self.speed.draft_tokens,
                    limits=limits,
                    **settings,
                )
                beam = mtf.Dimension("beam", 1)
                return result._replace(hypotheses=result.hypotheses.with_beam(beam))

        program = mtf.function(decode, jit_compile=self.experiment.mesh.decodes_by_xla)
        return self._programs.setdefault(shape, program)

    @functools.cached_property
    def _controls(self) -> decoding.Controls:
        """The controls of the search, and what ends an output by the form of the prompts."""
        controls, prompts = self.search.controls, self.prompt_format
        return dataclasses.replace(
            controls,
            stop=[*controls.stop, *prompts.stop],
            end_ids=[*controls.end_ids, *prompts.end_ids],
        )

    @functools.cached_property
    def _rules(self) -> decoding.Rules:
        end_id = self.data.vocabulary.end_id
        return self._controls.rules(
            end_id, lambda: token_texts(self.prompt_format, self.model.vocab.size)
        )

    @property
    def guide(self) -> decoding.Guide | None:
        """The guide of constraints and stop texts, made when it is first asked for."""
        return self._rules.guide

    @functools.cached_property
    def _writer(self) -> AnswerWriter:
        return AnswerWriter(self.prompt_format, self._controls, self._rules)

    def _named_variables(self) -> dict[str, mtf.Variable]:
        return {**self.model.named_variables(), **self.speed.variables_of_draft()}


def line_of_draws(line: int, sample: int) -> int:
    """Selects the draws of a sample: `line` for the first one."""
    return (line + sample * _SAMPLES_APART) % 2**31


def _text(text: bytes) -> str:
    return text.decode("utf-8", "replace")
