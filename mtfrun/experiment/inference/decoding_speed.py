"""How decoding saves time: drafts, common beginnings, several batches at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from mtfrun import decoding, mtf
from mtfrun.data import PromptLimits, TextData
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_fields
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import require
from mtfrun.models import TextModel

_REMEDY = "choose a run that was trained on the same data"


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """How decoding saves time. No setting changes an output but by rounding.

    Attributes:
      concurrent_batches: number of batches that are decoded concurrently on a CPU, at most one per
        core. Accelerators and meshes of several devices decode one at a time.
      draft: what proposes the next tokens, which one step of the model then checks: the experiment
        of a smaller model with the same mesh and vocabulary, or "lookup" for what followed the last
        tokens before. None for none.
      draft_tokens: number of tokens that a draft proposes for a step.
      share_beginnings: whether tokens with which several prompts begin are read once; None: where
        this saves more time than its programs take to compile.
    """

    concurrent_batches: int = 2
    draft: Experiment | Literal["lookup"] | None = None
    draft_tokens: int = 5
    share_beginnings: bool | None = None

    def __post_init__(self) -> None:
        check_fields(self, COUNT, "concurrent_batches", "draft_tokens")
        if isinstance(self.draft, str) and self.draft != "lookup":
            raise InputError(
                f'DecodingSpeed.draft is {self.draft!r}: it must be "lookup", an experiment or None'
            )

    def check(self, data: TextData, limits: PromptLimits) -> None:
        """Raises InputError unless a draft reads the features and ids of a model of the data."""
        if not isinstance(self.draft, Experiment):
            return
        require(self.draft.model, TextModel, "a draft", _REMEDY)
        of_draft = require(self.draft.data, TextData, "a draft", _REMEDY)
        features, draft_features = (
            sorted(x.prompt_format(limits).max_lengths) for x in (data, of_draft)
        )
        if features != draft_features:
            raise InputError(
                f"the draft reads {' and '.join(draft_features)}, the model "
                f"{' and '.join(features)}: {_REMEDY}"
            )
        for name in features:
            expected, actual = (x.vocabularies[name] for x in (data, of_draft))
            if actual.fingerprint != expected.fingerprint:
                raise InputError(
                    f"the vocabulary of the draft's {name} is {actual!r}, of the model's "
                    f"{expected!r}: {_REMEDY}"
                )

    def make_draft(
        self, search: decoding.Search, features: Mapping[str, mtf.Tensor], lines: mtf.Tensor
    ) -> decoding.Draft:
        """Returns the draft of a batch; its arguments come from the model that checks it."""
        if not isinstance(self.draft, Experiment):
            return decoding.LookupDraft()
        model = require(self.draft.model, TextModel, "a draft", _REMEDY)
        return decoding.ModelDraft(model.decoder(features), search.choice(model.vocab, lines))

    def variables_of_draft(self) -> dict[str, mtf.Variable]:
        if not isinstance(self.draft, Experiment):
            return {}
        variables = self.draft.model.named_variables()
        return {f"draft/{path}": variable for path, variable in variables.items()}


def describe_use(tokens: int, steps: int, draft_tokens: int) -> str:
    """Returns a line on how many proposals were accepted.

    Examples:
      >>> describe_use(tokens=110, steps=40, draft_tokens=5)
      'draft: 35% of its tokens accepted, 2.75 tokens per step of the model'
    """
    accepted = (tokens - steps) / (steps * draft_tokens)
    return (
        f"draft: {accepted:.0%} of its tokens accepted, {tokens / steps:.2f} tokens per step of the"
        " model"
    )


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
