"""Batches of prompts for decoding: rows of one program, and of one common beginning."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, PromptFormat, PromptRow
from mtfrun.data.prompts import bucket
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.inference.decoding_speed import (
    DecodingSpeed,
    concurrent_map,
    number_of_threads,
)
from mtfrun.experiment.inference.prefix_cache import Group, PrefixCache
from mtfrun.experiment.records import Progress, split_into_batches
from mtfrun.models import TextModel

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
