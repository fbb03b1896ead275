"""Batches of prompts for decoding: rows of one program, and of one common beginning."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, PromptFormat, PromptLimits, PromptRow, TextData
from mtfrun.data.prompts import bucket
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.inference.prefix_cache import Group, PrefixCache
from mtfrun.experiment.records import Progress, split_into_batches
from mtfrun.models import TextModel


class Draft(abc.ABC):
    """Decodes several tokens in a step of the model, which checks tokens that are proposed."""

    def check(self, data: TextData, limits: PromptLimits) -> None:  # noqa: B027, optional
        """Raises InputError unless the draft fits a model of the data."""

    @property
    def variables(self) -> Mapping[str, mtf.Variable]:
        """The variables of the draft by path."""
        return {}

    @abc.abstractmethod
    def decode(
        self,
        decoder: decoding.Decoder,
        features: Mapping[str, mtf.Tensor],
        vocab: mtf.Dimension,
        choice: Callable[[mtf.Dimension], decoding.ChooseToken],
        number: int,
        **settings: Any,
    ) -> tuple[decoding.Hypotheses, mtf.Tensor, mtf.Tensor]:
        """Returns hypotheses without a beam, and {batch} int32 the numbers of tokens and steps.

        Args:
          choice: returns the choice of tokens of a vocabulary.
          number: how many proposed tokens a step checks.
          settings: keyword arguments of `decoding.generate`.
        """

    @abc.abstractmethod
    def describe(self, tokens: int, steps: int, number: int) -> str:
        """Returns a line on how many tokens the steps have decoded."""


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """How decoding saves time. No setting changes an output but by rounding.

    Attributes:
      concurrent_batches: number of batches that are decoded concurrently on a CPU, at most one per
        core. Accelerators and meshes of several devices decode one at a time.
      draft: proposes the next tokens, which one step of the model then checks; None for none.
      draft_tokens: number of tokens that a draft proposes for a step.
      share_beginnings: whether tokens with which several prompts begin are read once; None: where
        this saves more time than its programs take to compile.
    """

    concurrent_batches: int = 2
    draft: Draft | None = None
    draft_tokens: int = 5
    share_beginnings: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "concurrent_batches", "draft_tokens")
        if not isinstance(self.draft, Draft | None):
            raise InputError(f"DecodingSpeed.draft is {self.draft!r}: it must be a draft or None")


def number_of_threads(mesh: mtf.Mesh, limit: int) -> int:
    """Returns the number of batches to decode concurrently, at most `limit`.

    XLA's programs leave cores of a CPU idle: on two cores, 4,000 lines took 13.6 s with two
    batches and 19.1 s with one (docs/benchmarks.md). An accelerator is busy with one, and the
    devices of a mesh wait for each other, which concurrent programs would disrupt.
    """
    if mesh.is_distributed or not mesh.is_on_cpu:
        return 1
    return min(limit, len(os.sched_getaffinity(0)))


@contextlib.contextmanager
def concurrent_map(threads: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yields a function like `map`, in the same order; leaving cancels calls not yet begun."""
    if threads == 1:
        yield map
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)


# Samples of a prompt use line numbers this far apart, so that they do not collide with prompts.
_SAMPLES_APART = 10_000_019


class DecodingShape(NamedTuple):
    """The shape of a program.

    Attributes:
      lengths: the lengths of its features, by name.
      prefill: whether prompts are read in one pass. This is decided for each row: not even the
        rounding of an answer depends on other rows, unless they have a common beginning.
      remaining: the largest number of ids of a prompt after the common beginning; 0 for none.
    """

    lengths: tuple[tuple[str, int], ...]
    prefill: bool
    remaining: int = 0


class Batch(NamedTuple):
    """Rows of one program, by their index, and the ids with which they begin, if these are read."""

    shape: DecodingShape
    rows: list[int]
    beginning: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class DecodingBatches:
    """Divides rows into batches, and decodes each with the program of its shape; thread-safe.

    Attributes:
      size: the number of rows of a batch.
      samples: the number of rows of a prompt.
      accepted: numbers of tokens and of steps of each batch that was decoded with a draft.
    """

    experiment: Experiment
    model: TextModel
    prompt_format: PromptFormat
    rules: decoding.Rules
    search: decoding.Search
    speed: DecodingSpeed
    size: int
    samples: int
    accepted: list[tuple[int, int]] = dataclasses.field(default_factory=list, init=False)
    _programs: dict[DecodingShape, Callable[..., Any]] = dataclasses.field(
        default_factory=dict, init=False
    )

    def decode(
        self, rows: Sequence[PromptRow], progress: Progress
    ) -> list[Sequence[decoding.Hypothesis]]:
        """Returns the hypotheses of each row, best first."""
        hypotheses: dict[int, Sequence[decoding.Hypothesis]] = {}
        batches = list(self.divide(rows))
        threads = number_of_threads(self.experiment.mesh, self.speed.concurrent_batches)
        with concurrent_map(threads) as map_batches:
            results = map_batches(functools.partial(self._decode_batch, rows), batches)
            for batch, result in zip(batches, results, strict=True):
                for i, row in enumerate(batch.rows):
                    hypotheses[row] = decoding.n_best(result, i)
                progress(len(hypotheses))
        return [hypotheses[row] for row in range(len(rows))]

    def divide(self, rows: Sequence[PromptRow]) -> Iterator[Batch]:
        """Yields the batches of rows, each row once."""
        shapes = [self.shape_of(row) for row in rows]
        groups = [Group(list(range(len(rows))), 0)]
        if self.speed.share_beginnings is not False:
            groups = self.prefixes.groups(rows, always=bool(self.speed.share_beginnings))
        for group in groups:
            # Decoding begins after the shortest prompt of a batch.
            order = sorted(group.rows, key=lambda index: (shapes[index], rows[index].prefix))
            for shape, indices in itertools.groupby(order, shapes.__getitem__):
                for batch in split_into_batches(indices, self.size):
                    yield _batch_of(shape, batch, group.common, rows)

    def shape_of(self, row: PromptRow) -> DecodingShape:
        lengths = self.prompt_format.lengths(row)
        longest = self.prompt_format.longest_prefix(lengths)
        prefill = self.model.reads_prompts_at_once or decoding.worth_reading_at_once(
            row.prefix, longest
        )
        return DecodingShape(tuple(sorted(lengths.items())), prefill)

    @functools.cached_property
    def prefixes(self) -> PrefixCache:
        return PrefixCache(self.experiment, self.model, self.prompt_format)

    def _decode_batch(self, all_rows: Sequence[PromptRow], batch: Batch) -> decoding.Hypotheses:
        """Returns arrays [rows, beam, ...], and then the arrays of rows that pad the batch."""
        mesh, shape, indices = self.experiment.mesh, batch.shape, batch.rows
        rows = [all_rows[index] for index in indices]
        batch_dim = mtf.Dimension("batch", self.size)
        arrays = self.prompt_format.features(rows, self.size, dict(shape.lengths))
        features = {
            name: mtf.import_tf_tensor(
                mesh, x, [batch_dim, *(mtf.Dimension("length", size) for size in x.shape[1:])]
            )
            for name, x in arrays.items()
        }
        # Rows of padding have the limit 0, so that they are finished from the beginning.
        lines_and_limits = np.zeros([2, self.size], np.int32)
        lines_and_limits[:, : len(rows)] = [
            [line_of_draws(*divmod(index, self.samples)) for index in indices],
            [row.limit for row in rows],
        ]
        lines, limits = (mtf.import_tf_tensor(mesh, x, [batch_dim]) for x in lines_and_limits)
        beginning = None if batch.beginning is None else self.prefixes.read(batch.beginning)
        result = mtf.to_numpy(self.program(shape)(features, lines, limits, beginning))
        if self.speed.draft is not None:
            result, tokens, steps = result
            self.accepted.append((int(tokens.sum()), int(steps.sum())))
        self.experiment.require_finite(result.scores[: len(rows)], "scores of outputs")
        hypotheses: decoding.Hypotheses = result
        return hypotheses

    def program(self, shape: DecodingShape) -> Callable[..., Any]:
        """Returns the function that decodes batches of a shape into Hypotheses.

        It takes the features {batch, length} by name, and {batch} int32 the rows' numbers in the
        input and the largest numbers of their ids, 0 for rows of padding; with remaining ids also
        what `PrefixCache.read` returns. With a draft it returns what `Draft.decode` does.
        """
        decode = functools.partial(self._decode, shape)
        program = mtf.function(decode, jit_compile=self.experiment.mesh.decodes_by_xla)
        return self._programs.setdefault(shape, program)

    def _decode(
        self,
        shape: DecodingShape,
        features: Mapping[str, mtf.Tensor],
        lines: mtf.Tensor,
        limits: mtf.Tensor,
        beginning: tuple[Any, mtf.Tensor] | None = None,
    ) -> decoding.Hypotheses | tuple[decoding.Hypotheses, mtf.Tensor, mtf.Tensor]:
        def decoder_for(beam: mtf.Dimension | None) -> decoding.Decoder:
            decoder = self.model.decoder(features, beam)
            if beginning is not None:
                assert decoder.after is not None
                return decoder.after(decoding.Beginning(*beginning, shape.remaining))
            return decoder if shape.prefill else decoder.step_by_step()

        prompts, vocab, speed = features[TARGETS], self.model.vocab, self.speed
        settings: dict[str, Any] = {
            "limits": limits,
            "longest_prompt": self.prompt_format.longest_prefix(dict(shape.lengths)),
            "padding_id": self.prompt_format.output_vocabulary.pad_id,
            "rules": self.rules,
        }
        variables = dict(self.model.named_variables())
        if speed.draft is not None:
            variables |= {f"draft/{path}": x for path, x in speed.draft.variables.items()}
        with mtf.read_once(variables):
            if speed.draft is None:
                return self.search(decoder_for, prompts, vocab, lines=lines, **settings)
            choice = functools.partial(self.search.choice, lines=lines)
            decoder, number = decoder_for(None), speed.draft_tokens
            hypotheses, tokens, steps = speed.draft.decode(
                decoder, features, vocab, choice, number, **settings
            )
            return hypotheses.with_beam(mtf.Dimension("beam", 1)), tokens, steps


def _batch_of(
    shape: DecodingShape, indices: list[int], common: int, rows: Sequence[PromptRow]
) -> Batch:
    if not common:
        return Batch(shape, indices)
    remaining = bucket(max(rows[index].prefix for index in indices) - common)
    # The program reads so many ids, which must be in the row: perhaps some of the beginning.
    common = min(common, dict(shape.lengths)[TARGETS] - remaining)
    if common <= 0:
        return Batch(shape, indices)
    shape = shape._replace(prefill=True, remaining=remaining)
    return Batch(shape, indices, rows[indices[0]].ids[:common])


def line_of_draws(line: int, sample: int) -> int:
    """Selects the draws of a sample: `line` for the first one."""
    return (line + sample * _SAMPLES_APART) % 2**31
