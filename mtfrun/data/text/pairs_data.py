"""Pairs of texts: as two features for encoder-decoder models, in one row for decoder-only ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mtfrun import mtf
from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS, ids_shape, packed_features
from mtfrun.data.prompts import EncoderDecoderPrompts, PromptFormat, PromptLimits
from mtfrun.data.rows.batches import Rows
from mtfrun.data.rows.text_rows import PackedRows, PaddedRows, RowsByLength
from mtfrun.data.task import Task
from mtfrun.data.text.task_data import TaskData
from mtfrun.data.vocabularies.vocabulary import Vocabulary
from mtfrun.errors.checks import COUNT, check_choice, check_fields


@dataclasses.dataclass(frozen=True)
class PairsData(TaskData):
    """Pairs of texts as ids; subclasses define the rows.

    Every text ends with the end id; longer texts are truncated before it. An evaluation has one
    pair per row, and batches of rows of similar length.

    Attributes:
      inputs_length, targets_length: maximum number of ids of a text, including the end.
      packed: whether a row holds as many pairs as fit; packed pairs do not attend to each other.
        One pair per row makes attention cheaper where pairs are about as long as a row.
      cut_at_front: features, "inputs" or "targets", of which long texts lose their beginning.
    """

    has_pairs: ClassVar[bool] = True
    texts: ClassVar[Sequence[str]] = (INPUTS, TARGETS)

    inputs_length: int
    targets_length: int
    packed: bool = True
    cut_at_front: Sequence[str] = ()

    def __post_init__(self) -> None:
        for feature in self.cut_at_front:
            check_choice(f"{type(self).__name__}.cut_at_front", feature, self.texts)
        check_fields(self, COUNT, "inputs_length", "targets_length")

    @property
    def text_limits(self) -> Mapping[str, int]:
        return {INPUTS: self.inputs_length, TARGETS: self.targets_length}

    @property
    def _joined(self) -> int | None:
        """Length of the rows that hold inputs and targets; None where they are two features."""
        return None

    @property
    def _vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        return self.mixture.vocabulary_of(INPUTS), self.mixture.vocabulary_of(TARGETS)

    def prompt_format(self, limits: PromptLimits) -> PromptFormat:
        vocabularies, lengths, joined = self._vocabularies, self.text_limits, self.has_rows_of_pairs
        return EncoderDecoderPrompts(
            *vocabularies, lengths, limits, self.cut_at_front, joined=joined
        )

    def _rows(self, task: Task, split: str) -> Rows:
        return self._make_rows(PackedRows if self.packed else PaddedRows, task, split)

    def _evaluation_rows(self, task: Task, split: str) -> Rows:
        return self._make_rows(RowsByLength, task, split)

    def _make_rows(self, kind: type[PackedRows | PaddedRows], task: Task, split: str) -> Rows:
        cache, lengths = self._cache(task, split), list(self.text_limits.values())
        return kind(cache, lengths, joined=self._joined, cut_at_front=self.cut_at_front)


@dataclasses.dataclass(frozen=True)
class SequenceToSequenceData(PairsData):
    """Pairs of texts for encoder-decoder models: inputs and targets as separate features.

    Texts are padded; targets that are padding have no loss. Packed rows hold as many pairs as fit
    into both (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 2.1).
    """

    remedy: ClassVar[str] = (
        "add --gin_file=data/delimited_pairs.gin behind the file of the pairs, which puts both in "
        "one row"
    )

    @property
    def features(self) -> dict[str, mtf.Shape]:
        if self.packed:
            return {
                **packed_features(self.inputs_length, INPUTS),
                **packed_features(self.targets_length, TARGETS),
            }
        return {INPUTS: ids_shape(self.inputs_length), TARGETS: ids_shape(self.targets_length)}

    def model_arguments(self) -> dict[str, object]:
        inputs, targets = self._vocabularies
        # Vocabularies of one file may put other tokens around texts.
        if inputs.fingerprint == targets.fingerprint or (
            inputs.files and (inputs.files, inputs.size) == (targets.files, targets.size)
        ):
            return super().model_arguments()
        return {**super().model_arguments(), "inputs_vocabulary_size": inputs.size}


@dataclasses.dataclass(frozen=True)
class DelimitedPairsData(PairsData):
    """Pairs of texts for decoder-only models: rows of "inputs end targets end".

    Positions count from 0 in each packed pair. These are the rows of a prefix language model
    (seqio's PrefixLM), and of a causal model that answers inputs (Mesh TensorFlow's delimited_lm);
    the model's `loss_on_targets_only` says whether inputs are trained on. Counting ends
    distinguishes inputs and targets, so a pair is never divided between rows.

    Attributes:
      length: the length of a row; by default, and at least, inputs_length + targets_length.
    """

    remedy: ClassVar[str] = "set Experiment.data = @data.SequenceToSequenceData()"
    has_rows_of_pairs: ClassVar[bool] = True

    length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        longest = self.inputs_length + self.targets_length
        if self._joined < longest:
            rule = f"inputs_length + targets_length = {longest}: a pair is not divided between rows"
            raise DataError(f"DelimitedPairsData: length={self.length} must be at least {rule}")
        inputs, targets = self._vocabularies
        if inputs.fingerprint != targets.fingerprint:
            remedy = f"the task has {inputs} and {targets}: use @data.SequenceToSequenceData()"
            raise DataError(f"DelimitedPairsData: inputs and targets need one vocabulary, {remedy}")

    @property
    def features(self) -> dict[str, mtf.Shape]:
        features = packed_features(self._joined)
        return features if self.packed else {TARGETS: features[TARGETS]}

    @property
    def _joined(self) -> int:
        return self.inputs_length + self.targets_length if self.length is None else self.length
