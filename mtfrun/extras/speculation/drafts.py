"""The drafts of an experiment's decoding: `DecodingSpeed.draft`."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, PromptLimits, TextData
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment
from mtfrun.experiment.inference.decoding_speed import Draft
from mtfrun.experiment.records import require
from mtfrun.extras.speculation import draft
from mtfrun.extras.speculation.speculative import Speculation, speculate
from mtfrun.models import TextModel

_REMEDY = "choose a run that was trained on the same data"

Choice = Callable[[mtf.Dimension], decoding.ChooseToken]


class _Proposed(Draft):
    """A draft that proposes ids."""

    @abc.abstractmethod
    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> draft.Draft:
        """Returns what proposes ids for a batch."""

    def decode(
        self,
        decoder: decoding.Decoder,
        features: Mapping[str, mtf.Tensor],
        vocab: mtf.Dimension,
        choice: Choice,
        number: int,
        **settings: Any,
    ) -> Speculation:
        proposer = self.proposer(features, choice)
        prompts = features[TARGETS]
        return speculate(decoder, prompts, choice(vocab), proposer, number, **settings)

    def describe(self, tokens: int, steps: int, number: int) -> str:
        """Returns how many proposals were accepted.

        >>> Lookup().describe(tokens=110, steps=40, number=5)
        'draft: 35% of its tokens accepted, 2.75 tokens per step of the model'
        """
        accepted = (tokens - steps) / (steps * number)
        return (
            f"draft: {accepted:.0%} of its tokens accepted, {tokens / steps:.2f} tokens per step of"
            " the model"
        )


@dataclasses.dataclass(frozen=True)
class Lookup(_Proposed):
    """Proposes what followed the last tokens before, in the prompt or the output.

    Attributes:
      longest: the largest number of last tokens that are looked up.
    """

    longest: int = 4

    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> draft.Draft:
        return draft.LookupDraft(self.longest)


@dataclasses.dataclass(frozen=True)
class SmallerModel(_Proposed):
    """Proposes what a smaller model would choose.

    Attributes:
      experiment: the smaller model, with the same mesh and vocabulary.
    """

    experiment: Experiment

    def check(self, data: TextData, limits: PromptLimits) -> None:
        require(self.experiment.model, TextModel, "a draft", _REMEDY)
        draft_data = require(self.experiment.data, TextData, "a draft", _REMEDY)
        features, draft_features = (
            sorted(x.prompt_format(limits).max_lengths) for x in (data, draft_data)
        )
        if features != draft_features:
            raise InputError(
                f"the draft reads {' and '.join(draft_features)}, the model "
                f"{' and '.join(features)}: {_REMEDY}"
            )
        for name in features:
            expected, actual = (x.vocabularies[name] for x in (data, draft_data))
            if actual.fingerprint != expected.fingerprint:
                raise InputError(
                    f"the vocabulary of the draft's {name} is {actual!r}, of the model's "
                    f"{expected!r}: {_REMEDY}"
                )

    @property
    def variables(self) -> Mapping[str, mtf.Variable]:
        return self.experiment.model.named_variables()

    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> draft.Draft:
        model = require(self.experiment.model, TextModel, "a draft", _REMEDY)
        return draft.ModelDraft(model.decoder(features), choice(model.vocab))
