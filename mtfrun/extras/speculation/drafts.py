"""The drafts of an experiment's decoding: `DecodingSpeed.draft`."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from mtfrun import decoding, mtf
from mtfrun.data import TARGETS, PromptLimits, TextData
from mtfrun.decoding.generate import Prompts
from mtfrun.errors import InputError
from mtfrun.experiment import Experiment
from mtfrun.experiment.inference.decoding_batches import Draft
from mtfrun.experiment.records import require
from mtfrun.extras.speculation.speculative import (
    Proposals,
    Proposer,
    Speculation,
    speculate,
    with_block,
)
from mtfrun.models import TextModel

_REMEDY = "choose a run that was trained on the same data"

Choice = Callable[[mtf.Dimension], decoding.ChooseToken]


class _Proposed(Draft):
    @abc.abstractmethod
    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> Proposer:
        """Returns the proposer of ids for a batch."""

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
        """Returns the share of accepted proposals.

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
    """Proposes the ids that followed the row's last ids earlier, in its prompt or output.

    The occurrence that agrees with most of the last ids counts, of these the latest one. Where it
    reaches the end of the row it is repeated. Saxena 2023, "Prompt lookup decoding",
    https://github.com/apoorvumang/prompt-lookup-decoding.

    Attributes:
      longest: the largest number of last ids that are looked up.
    """

    longest: int = 4

    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> Proposer:
        return self

    def __call__(self, prompts: Prompts, block: mtf.Dimension) -> Proposals:
        def propose(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
            batch, length = ids.shape
            index = mtf.range(ids.mesh, length)
            agrees = mtf.less(index, position, output_shape=ids.shape)
            score = mtf.where(agrees, index, -1, output_shape=ids.shape)
            for distance in range(1, min(self.longest, length.size - 1) + 1):
                last = mtf.gather(ids, position - distance, length)
                same = mtf.equal(mtf.shift(ids, distance, length, wrap=False), last)
                inside = mtf.greater_equal(index, distance, output_shape=ids.shape)
                agrees = mtf.logical_and(agrees, mtf.logical_and(same, inside))
                score = score + mtf.cast(agrees, tf.int32) * length.size
            start = mtf.argmax(score, length)
            period = mtf.maximum(position - start, 1)
            offset = mtf.mod(mtf.range(ids.mesh, block), period, output_shape=[batch, block])
            return mtf.gather(ids, start + offset, length), state

        return Proposals(propose, ())


@dataclasses.dataclass(frozen=True)
class SmallerModel(_Proposed):
    """Proposes the choices of a smaller model.

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

    def proposer(self, features: Mapping[str, mtf.Tensor], choice: Choice) -> Proposer:
        model = require(self.experiment.model, TextModel, "a draft", _REMEDY)
        return functools.partial(propose_choices, model.decoder(features), choice(model.vocab))


def propose_choices(
    decoder: decoding.Decoder, choose: decoding.ChooseToken, prompts: Prompts, block: mtf.Dimension
) -> Proposals:
    """Returns the choices of a model's decoder.

    `choose` has the key and the lines of the checking model's choice: with the same noise both draw
    the same tokens where their distributions are alike. No guide masks the logits.
    """
    if decoder.in_blocks is None:
        raise InputError(
            "a layer of the draft computes one position after the other: it cannot be a draft"
        )
    decoder = decoder.in_blocks()
    if decoder.at_once is not None and prompts.read_at_once:
        decoder = decoder.at_once(prompts.read_at_once, prompts.lengths)
    assert decoder.within is not None
    decoder = decoder.within(prompts.length.size + block.size)
    one = mtf.Dimension(block.name, 1)
    unguided = dataclasses.replace(prompts, rules=dataclasses.replace(prompts.rules, guide=None))

    def propose(ids: mtf.Tensor, position: mtf.Tensor, state: Any) -> tuple[mtf.Tensor, Any]:
        batch, length = ids.shape

        def advance(
            i: mtf.Tensor, previous: mtf.Tensor, proposals: mtf.Tensor, state: Any
        ) -> list[Any]:
            at = mtf.reshape(position + i, [batch, one])
            logits, state = decoder.step(mtf.reshape(previous, [batch, one]), at, state)
            written = with_block(ids, proposals, position, block.size)
            logits = unguided.process(mtf.to_float(logits), written, at, ())
            token = mtf.reshape(choose(logits, at), [batch])
            is_written = mtf.equal(mtf.range(ids.mesh, block), i)
            proposals = mtf.where(is_written, token, proposals, output_shape=proposals.shape)
            return [i + 1, token, proposals, state]

        # The last proposal is not checked, but the state has read the one before it.
        first = [
            mtf.constant(ids.mesh, 0, dtype=tf.int32),
            mtf.gather(ids, position - 1, length),
            mtf.zeros(ids.mesh, [batch, block], tf.int32),
            state,
        ]
        _, _, proposals, state = mtf.while_loop(
            lambda i, *_: mtf.less(i, block.size), advance, first, rounds=block.size
        )
        return proposals, state

    return Proposals(propose, decoder.initial_state)
