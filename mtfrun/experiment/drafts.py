"""The draft of a decoding: the smaller model of an experiment, or a look-up; its use in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from mtfrun import decoding, mtf
from mtfrun.data import PromptLimits, TextData
from mtfrun.errors import InputError
from mtfrun.experiment.experiment import Experiment
from mtfrun.experiment.records import require
from mtfrun.models import TextModel

Draft = Experiment | Literal["lookup"]

_REMEDY = "choose a run that was trained on the same data"


def check_draft(draft: Draft, data: TextData, limits: PromptLimits) -> None:
    """Raises InputError unless the draft reads the same features and ids as a model of the data."""
    if not isinstance(draft, Experiment):
        return
    require(draft.model, TextModel, "a draft", _REMEDY)
    of_draft = require(draft.data, TextData, "a draft", _REMEDY)
    features, draft_features = (
        sorted(x.prompt_format(limits).max_lengths) for x in (data, of_draft)
    )
    if features != draft_features:
        raise InputError(
            f"the draft reads {' and '.join(draft_features)}, the model {' and '.join(features)}: "
            f"{_REMEDY}"
        )
    for name in features:
        pair = [x.vocabularies[name] for x in (data, of_draft)]
        if pair[0].fingerprint != pair[1].fingerprint:
            raise InputError(
                f"the vocabulary of the draft's {name} is {pair[1]!r}, of the model's {pair[0]!r}: "
                f"{_REMEDY}"
            )


def make_draft(
    draft: Draft, search: decoding.Search, features: Mapping[str, mtf.Tensor], lines: mtf.Tensor
) -> decoding.Draft:
    """Returns the draft of a batch; the arguments are those of the model that checks it."""
    if not isinstance(draft, Experiment):
        return decoding.LookupDraft()
    model = require(draft.model, TextModel, "a draft", _REMEDY)
    return decoding.ModelDraft(model.decoder(features), search.choice(model.vocab, lines))


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
