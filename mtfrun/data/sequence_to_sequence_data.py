"""Pairs of texts for encoder-decoder models: inputs and targets as separate features."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from mtfrun.data.features import INPUTS, TARGETS, Feature, ids_feature
from mtfrun.data.pairs_data import PairsData
from mtfrun.data.prompting import Prompting, PromptLimits, ScoredRow, bucket


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceData(PairsData):
    """Pairs of texts, one pair per row; the attributes are those of `PairsData`.

    Every text ends with the end id and is padded; targets that are padding have no loss.
    """

    remedy: ClassVar[str] = (
        "add --gin_file=data/delimited_pairs.gin behind the file of the pairs, which puts both in "
        "one row"
    )

    @property
    def features(self) -> dict[str, Feature]:
        """Inputs and targets, whose lengths may differ."""
        meaning = "ids and the end, then 0 for padding"
        return {
            INPUTS: ids_feature(self.inputs_length, meaning),
            TARGETS: ids_feature(self.targets_length, meaning),
        }

    @property
    def tokens_per_row(self) -> int:
        """Positions of inputs and targets together."""
        return self.inputs_length + self.targets_length

    def prompting(self, limits: PromptLimits) -> Prompting:
        """Returns the conversion of prompts to inputs."""
        return self._answering(limits)

    def scored_row(self, inputs: bytes, target: bytes, limits: PromptLimits) -> ScoredRow:
        """Returns a pair as inputs and targets."""
        ids, truncated = self._ids_of_pair(inputs, target)
        longest = {INPUTS: self.inputs_length, TARGETS: self.targets_length}
        lengths = {name: bucket(len(ids[name]), longest[name]) for name in longest}
        return ScoredRow(ids, lengths, 0, truncated)
