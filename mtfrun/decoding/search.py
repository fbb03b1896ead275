"""The choice of a decoding method: greedy, sampling, or beam search."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Unpack

from mtfrun import mtf
from mtfrun.decoding.beam_search import BeamSearch
from mtfrun.decoding.controls.rules import Controls
from mtfrun.decoding.controls.sampling import ChooseToken, Greedy, Sample
from mtfrun.decoding.decoder import END_ID, Decoder, Hypotheses
from mtfrun.decoding.generate import PromptOptions, generate
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, INDEX, NOT_NEGATIVE, SHARE_ABOVE_0, check_range


@dataclasses.dataclass(frozen=True)
class Search:
    """A decoding method with its settings.

    Attributes:
      beam_size: the number of beams of a beam search; 1 for greedy decoding or sampling.
      alpha: the exponent of a beam search's length penalty, which ignores the prompt; 0 for no
        penalty, larger values favour long outputs.
      stop_early: end a beam search when no active beam can beat the finished ones.
      as_transformers: end a beam search as transformers does with `early_stopping`: an end counts
        only if its hypothesis is among the `beam_size` best of the step, a row is done when it has
        `beam_size` finished hypotheses, and hypotheses that the limit has ended compete with them.
      temperature: 0 takes the most likely token each time, 1 draws from the model's distribution.
      top_k, top_p: see `Sample`.
      controls: further requirements on outputs.
    """

    beam_size: int = 1
    alpha: float = 0.6
    stop_early: bool = True
    as_transformers: bool = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    controls: Controls = Controls()

    def __post_init__(self) -> None:
        check_range("beam_size", self.beam_size, COUNT)
        check_range("alpha", self.alpha, NOT_NEGATIVE)
        check_range("temperature", self.temperature, NOT_NEGATIVE)
        check_range("top_k", self.top_k, INDEX, remedy="0 is for all")
        check_range("top_p", self.top_p, SHARE_ABOVE_0, remedy="1 is for all")
        if self.beam_size > 1 and self.temperature:
            who = f"beam_size={self.beam_size} with temperature={self.temperature}"
            raise InputError(f"{who}: a beam search draws no samples, set one of them")

    def check(self, vocabulary_size: int) -> None:
        ids = f"the {vocabulary_size} ids of the vocabulary"
        if self.beam_size >= vocabulary_size:
            raise InputError(f"beam_size={self.beam_size} must be below {ids}")
        if self.top_k > vocabulary_size:
            raise InputError(f"top_k={self.top_k} must be at most {ids}")

    def choice(self, vocab: mtf.Dimension, lines: mtf.Tensor) -> ChooseToken:
        self.check(vocab.size)
        if not self.temperature:
            return Greedy(vocab)
        key = mtf.random_key(self.seed)
        filters = self.controls.filters
        return Sample(vocab, key, lines, self.temperature, self.top_k, self.top_p, filters)

    def __call__(
        self,
        decoder_for: Callable[[mtf.Dimension | None], Decoder],
        prompts: mtf.Tensor,
        vocab: mtf.Dimension,
        *,
        lines: mtf.Tensor,
        **options: Unpack[PromptOptions],
    ) -> Hypotheses:
        """Returns the hypotheses {batch, beam, ...} of every row, best first; see `generate`.

        `decoder_for` takes the beam dimension or None. `lines` {batch} int32, the number of each
        row's line in the input, seeds its draws. `rules`: by default the search's, for a
        vocabulary with `END_ID`.
        """
        self.check(vocab.size)
        beam = mtf.Dimension("beam", self.beam_size)
        decode: Callable[..., Hypotheses]
        if self.beam_size > 1:
            search = BeamSearch(self.alpha, self.stop_early, as_transformers=self.as_transformers)
            decode = functools.partial(search, decoder_for(beam), prompts, beam, vocab)
        else:
            choose = self.choice(vocab, lines)
            decode = functools.partial(generate, decoder_for(None), prompts, choose)
        options["rules"] = options.get("rules") or self.controls.rules(END_ID)
        return decode(**options).with_beam(beam)
