"""A user's requirements on outputs, whatever the decoding method."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence

from mtfrun.decoding.controls.automaton import Constraint, all_of, check_texts, containing_each
from mtfrun.decoding.controls.guide import TokenTexts, make_guide
from mtfrun.decoding.controls.rules import LogitProcessor, Rules
from mtfrun.decoding.controls.sampling import TokenFilter
from mtfrun.errors import InputError
from mtfrun.errors.checks import INDEX, check_range

_NO_ID = -2
# The longest time of all constraints.
_MOST_SECS = 25.0


@dataclasses.dataclass(frozen=True)
class Controls:
    """Requirements on outputs beyond a decoding method.

    Attributes:
      processors: change the logits, in this order and before the temperature: penalties, or your
        own functions of `LogitProcessor`'s form.
      filters: narrow the draws of sampling, in this order and after top_k and top_p.
      constraints: all of them hold for the texts of outputs.
      stop: the first of these texts ends an output and is not part of it.
      end_ids: ids that end an output besides the vocabulary's.
      vocabulary_end: whether the vocabulary's end id ends an output.
      log_probs: the log-probabilities of this many most likely ids at each position are returned
        with the output's; 0 returns only the output's, None does not return any.
    """

    processors: Sequence[LogitProcessor] = ()
    filters: Sequence[TokenFilter] = ()
    constraints: Sequence[Constraint] = ()
    stop: Sequence[str] = ()
    end_ids: Sequence[int] = ()
    vocabulary_end: bool = True
    log_probs: int | None = None

    def __post_init__(self) -> None:
        for name, method, example in (
            ("processors", "__call__", "RepetitionPenalty"),
            ("filters", "__call__", "MinP"),
            ("constraints", "automaton", "ForcedWords"),
        ):
            for item in getattr(self, name):
                if isinstance(item, type) or not callable(getattr(item, method, None)):
                    remedy = f"list objects such as @decoding.{example}()"
                    raise InputError(f"Controls.{name} has {item!r} without {method}: {remedy}")
        check_texts("Controls.stop", self.stop)
        check_range("Controls.log_probs", self.log_probs, INDEX, optional=True)
        for end_id in self.end_ids:
            check_range("Controls.end_ids", end_id, INDEX)

    def ends(self, end_id: int) -> tuple[int, ...]:
        """Returns the ids that end an output, first the vocabulary's, or else an impossible id."""
        return (end_id if self.vocabulary_end else _NO_ID, *self.end_ids)

    def rules(self, end_id: int, tokens: Callable[[], TokenTexts] | None = None) -> Rules:
        """Returns the rules of outputs.

        Args:
          end_id: the vocabulary's.
          tokens: returns the texts of its ids; for constraints and stop texts.
        """
        end_ids, automata = self.ends(end_id), []
        latest = time.monotonic() + _MOST_SECS
        for constraint in self.constraints:
            automata.append(constraint.automaton())
            if time.monotonic() > latest:
                need = f"need more than {_MOST_SECS:g} s, up to {constraint!r:.200}"
                raise InputError(f"Controls.constraints {need}: leave some out")
        automata += containing_each(self.stop, ends=True)
        if not automata:
            return Rules(end_ids, self.processors, log_probs=self.log_probs)
        assert tokens is not None
        guide = make_guide(all_of(automata), tokens(), end_ids, allow_special=not self.constraints)
        return Rules(end_ids, self.processors, guide, self.log_probs)

    def cut(self, text: str) -> str:
        ends = [text.find(stop) for stop in self.stop]
        return text[: min((end for end in ends if end >= 0), default=len(text))]
