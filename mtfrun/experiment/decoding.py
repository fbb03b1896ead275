"""Continuing or answering prompts with the model of an experiment."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, Prompting, PromptLimits, Row, TextData
from mtfrun.errors import InputError
from mtfrun.experiment.concurrency import mapping, number_of_threads
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.inference import Inference, Record, Source, required
from mtfrun.experiment.scoring import Scoring
from mtfrun.models import TextModel

_REMEDY = "set Experiment.inference to what fits, such as @experiment.Classification"


class Output(NamedTuple):
    """One thing that the model made of a prompt.

    Attributes:
      text: the output.
      score: log-probability; of a beam search, over the length penalty.
      tokens: tokens of the text, without the end.
      finished: whether the model ended the text itself.
    """

    text: str
    score: float
    tokens: int
    finished: bool


class Answer(NamedTuple):
    """A prompt and what the model made of it.

    Attributes:
      prompt: the text; bytes that are no UTF-8 are replaced in it, not in what the model reads.
      output: the best output.
      outputs: the best ones, best first.
      prompt_tokens: tokens that the model read.
      truncated_tokens: tokens of the prompt that it did not, for lack of room.
      output_tokens: tokens of the best output, without the end.
      finished: whether the model ended the text itself.
      valid_utf8: whether the prompt was UTF-8.
    """

    prompt: str
    output: str
    outputs: list[Output]
    prompt_tokens: int
    truncated_tokens: int
    output_tokens: int
    finished: bool
    valid_utf8: bool


class _Batch(NamedTuple):
    """Prompts that one program decodes.

    Attributes:
      lengths: of the features.
      at_once: whether prompts are read at once: a matter of each row, not of its batch, so that not
        even the rounding of its answer depends on the others.
      lines: their numbers.
    """

    lengths: Mapping[str, int]
    at_once: bool
    lines: Sequence[int]


@dataclasses.dataclass(frozen=True)
class Decoding(Inference):
    """How texts are made. Models of pairs of texts answer their prompts, others continue them.

    experiment: whose model.
    batch_size: prompts in a batch; more where the mesh splits a batch into more parts.
    concurrent_batches: batches decoded at the same time on a CPU, at most one a core. Accelerators
        and meshes of several devices decode one after the other.
    max_length: where prompts are continued, tokens of a prompt and its output together.
    decode_length: tokens that are made for a prompt at most.
    decode_length_multiplier, decode_length_constant: where prompts are answered, also at most
        (tokens of the prompt) * multiplier + constant.
    num_outputs: outputs for each prompt, at most the search's `beam_size`.
    search: greedily, by beam search, or by drawing.
    """

    settings: ClassVar[Sequence[str]] = (
        *("beam_size", "num_outputs", "alpha", "temperature", "top_k", "top_p"),
        *("decode_length", "seed"),
    )

    experiment: Experiment
    batch_size: int
    max_length: int
    concurrent_batches: int = 2
    decode_length: int = 128
    decode_length_multiplier: float = 1.5
    decode_length_constant: int = 10
    num_outputs: int = 1
    search: decoding.Search = decoding.Search()
    _programs: dict[tuple[int, ...], Callable[..., decoding.Hypotheses]] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        names = ("batch_size", "concurrent_batches", "max_length", "decode_length", "num_outputs")
        for name in names:
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must be at least 1")
        if self.num_outputs > self.search.beam_size:
            raise InputError(
                f"num_outputs={self.num_outputs} must be at most beam_size={self.search.beam_size}"
            )
        self.search.check(self._data.vocabulary.size)
        required(self.experiment.model, TextModel, type(self).__name__, _REMEDY)

    def __call__(
        self, prompts: Sequence[bytes], progress: Callable[[int], None] = lambda done: None
    ) -> list[Answer]:
        """Returns an answer to each prompt, in order; tells `progress` how many are done.

        Raises:
          NonFiniteError: a score is infinite or not a number.
        """
        answers: dict[int, Answer] = {}
        rows = [self._prompting.row(prompt) for prompt in prompts]
        batches = list(self._batches(rows))
        threads = number_of_threads(self.experiment.mesh, self.concurrent_batches)
        with mapping(threads) as map_batches:
            found = map_batches(functools.partial(self._search_batch, rows), batches)
            for batch, (ids, scores, finished) in zip(batches, found, strict=True):
                for i, line in enumerate(batch.lines):
                    hypotheses = decoding.n_best(ids[i], scores[i], finished[i])
                    answers[line] = self._answer(
                        prompts[line], rows[line], hypotheses[: self.num_outputs]
                    )
                progress(len(answers))
        return [answers[line] for line in range(len(prompts))]

    def read(self, source: Source) -> Sequence[bytes]:
        """Returns the prompts that a source has."""
        return source.texts()

    def records(
        self, inputs: Sequence[bytes], progress: Callable[[int], None] = lambda done: None
    ) -> list[Record]:
        """Returns the answer to each prompt, and the texts of its outputs."""
        return [_record(answer) for answer in self(inputs, progress)]

    def scores(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[Record]:
        """Returns the log-likelihood of the target of each (input, target)."""
        scores = Scoring(self.experiment, self.batch_size, self._limits)(pairs)
        return [
            Record(
                {
                    "input": inputs.decode("utf-8", "replace"),
                    "target": target.decode("utf-8", "replace"),
                    **score._asdict(),
                }
            )
            for (inputs, target), score in zip(pairs, scores, strict=True)
        ]

    def _changed(self, settings: Mapping[str, Any]) -> Self:
        fields = {field.name for field in dataclasses.fields(self)}
        own = {name: value for name, value in settings.items() if name in fields}
        of_search = {name: value for name, value in settings.items() if name not in own}
        search = dataclasses.replace(self.search, **of_search)
        return dataclasses.replace(self, search=search, **own)

    @functools.cached_property
    def _data(self) -> TextData:
        return required(self.experiment.data, TextData, type(self).__name__, _REMEDY)

    @functools.cached_property
    def _model(self) -> TextModel:
        return required(self.experiment.model, TextModel, type(self).__name__, _REMEDY)

    @property
    def _limits(self) -> PromptLimits:
        return PromptLimits(
            self.max_length,
            self.decode_length,
            self.decode_length_multiplier,
            self.decode_length_constant,
        )

    @functools.cached_property
    def _rows(self) -> int:
        """The rows of a batch."""
        return self.experiment.rows_for(self.batch_size)

    @functools.cached_property
    def _prompting(self) -> Prompting:
        return self._data.prompting(self._limits)

    def _batches(self, rows: Sequence[Row]) -> Iterator[_Batch]:
        """Yields batches of rows of like length."""
        by_program: dict[tuple[Any, ...], list[int]] = {}
        for line, row in enumerate(rows):
            lengths = self._prompting.lengths(row)
            longest = self._prompting.longest_prompt(lengths)
            at_once = self._model.reads_prompts_at_once or decoding.worth_reading_at_once(
                row.given, longest
            )
            by_program.setdefault((*sorted(lengths.items()), at_once), []).append(line)
        for (*items, at_once), lines in sorted(by_program.items()):
            # Steps begin behind the shortest prompt of a batch.
            lines.sort(key=lambda line: rows[line].given)
            for start in range(0, len(lines), self._rows):
                yield _Batch(dict(items), at_once, lines[start : start + self._rows])

    def _search_batch(
        self, all_rows: Sequence[Row], given: _Batch
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns ids [rows, beam, length], scores and finished [rows, beam] of a batch's rows."""
        mesh = self.experiment.mesh
        rows = [all_rows[line] for line in given.lines]
        batch = mtf.Dimension("batch", self._rows)
        arrays = self._prompting.features(rows, self._rows, given.lengths)
        features = {
            name: mtf.import_tf_tensor(mesh, ids, [batch, mtf.Dimension("length", ids.shape[1])])
            for name, ids in arrays.items()
        }
        # The rows that fill up the batch have no room, so they are done at once.
        numbers = np.zeros([2, self._rows], np.int32)
        numbers[:, : len(rows)] = [given.lines, [row.limit for row in rows]]
        found = self._program(given)(
            features, *(mtf.import_tf_tensor(mesh, x, [batch]) for x in numbers)
        )
        ids, scores, finished = (x[: len(rows)] for x in mtf.to_numpy(found))
        self.experiment.require_finite(scores, "scores of outputs")
        return ids, scores, finished

    def _program(self, given: _Batch) -> Callable[..., decoding.Hypotheses]:
        """Returns the function that decodes batches of these lengths; several threads may ask."""
        longest = self._prompting.longest_prompt(given.lengths)
        # Measured: XLA makes decoding faster on one device.
        program = mtf.function(
            functools.partial(self._hypotheses, longest, given.at_once),
            jit_compile=not self.experiment.mesh.is_distributed,
        )
        return self._programs.setdefault((*given.lengths.values(), given.at_once), program)

    def _hypotheses(
        self,
        longest_prompt: int,
        at_once: bool,
        features: Mapping[str, mtf.Tensor],
        lines: mtf.Tensor,
        limits: mtf.Tensor,
    ) -> decoding.Hypotheses:
        vocabulary = self._data.vocabulary

        def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
            decoder = self._model.decoder(features, beam)
            return decoder if at_once else decoder.step_by_step()

        return self.search(
            decoder_for,
            features[TARGETS],
            self._model.vocab,
            lines=lines,
            limits=limits,
            longest_prompt=longest_prompt,
            end_id=vocabulary.end_id,
        )

    def _answer(
        self, prompt: bytes, row: Row, hypotheses: Sequence[tuple[np.ndarray, float, bool]]
    ) -> Answer:
        text = prompt.decode("utf-8", "replace")
        outputs = [
            self._output(ids[row.given :], score, finished) for ids, score, finished in hypotheses
        ]
        best = outputs[0]
        return Answer(
            prompt=text,
            output=best.text,
            outputs=outputs,
            prompt_tokens=row.read,
            truncated_tokens=row.truncated,
            output_tokens=best.tokens,
            finished=best.finished,
            valid_utf8=text.encode() == prompt,
        )

    def _output(self, ids: np.ndarray, score: float, finished: bool) -> Output:
        vocabulary = self._data.vocabulary
        ends = np.flatnonzero(ids == vocabulary.end_id)
        tokens = int(ends[0]) if ends.size else int(np.count_nonzero(ids))
        return Output(vocabulary.decode(ids), score, tokens, finished)


def _record(answer: Answer) -> Record:
    outputs = [output._asdict() for output in answer.outputs]
    texts = [output.text for output in answer.outputs]
    return Record({**answer._asdict(), "outputs": outputs}, texts)
