"""Resamples of the examples that a run has decoded, for intervals of one trained model."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtfrun.display import progress
from mtfrun.errors.untrusted import LARGEST_TEXT, parse_json, read_regular
from mtfrun.files.errors import reason

NUM_SAVED = "experiment.DecodedPairs.num_saved"
"""The setting that is None in runs that keep all decodes."""

_COUNT = 1000
# Of sacrebleu.significance; always the same, so that runs can be paired.
_SEED = 12345
_HASH_DIGITS = 12
# Of the hash of an output: two that differ look equal once in 65,536.
_OUTPUT_DIGITS = 4
_DECIMALS = 6


@dataclasses.dataclass(frozen=True)
class Resamples:
    """Scores of resamples of a run's examples, the same resamples for all runs of as many.

    Attributes:
      examples: number of examples.
      references: hash of their inputs and targets, in order.
      outputs: four hexadecimal digits of the hash of every output.
      scores: the metric of every resample.
    """

    examples: int
    references: str
    outputs: str
    scores: Sequence[float]

    def pairs_with(self, other: Resamples) -> bool:
        return (self.examples, self.references) == (other.examples, other.references)

    def count_different_outputs(self, other: Resamples) -> int:
        ids, others = (np.frombuffer(bytes.fromhex(x.outputs), np.uint16) for x in (self, other))
        return int(np.sum(ids != others))


def resample_decodes(
    directory: pathlib.Path, step: int, metric: str, value: float, config: Mapping[str, str]
) -> Resamples | None:
    """Returns resamples of the decodes that a run has saved at a step, as sacrebleu draws them.

    None unless the run keeps all of its decodes, and `metric`, whose `value` it recorded, is exact
    match, BLEU or chrF of texts as they are.
    """
    if config.get(NUM_SAVED) != "None":
        return None
    path = directory / "decodes" / f"eval_{step}.jsonl"
    try:
        lines = read_regular(path, LARGEST_TEXT, follows_links=False).splitlines()
        records = [record for line in lines if "target" in (record := parse_json(line))]
        inputs, targets, outputs = (
            [str(record[name]) for record in records] for name in ("input", "target", "output")
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        text = f"no interval over examples: {path} cannot be read ({reason(error)})"
        progress.print_line(progress.warning(text))
        return None
    scorer = _scorer(metric, value, targets, outputs)
    if scorer is None:
        return None
    size = (_COUNT, len(records))
    drawn = np.random.default_rng(_SEED).choice(len(records), size=size, replace=True)
    scores = [round(scorer(indexes), _DECIMALS) for indexes in drawn]
    pairs = "\0".join(itertools.chain(inputs, targets))
    ids = "".join(_hash(output)[:_OUTPUT_DIGITS] for output in outputs)
    return Resamples(len(records), _hash(pairs)[:_HASH_DIGITS], ids, scores)


def _scorer(metric: str, value: float, targets: Sequence[str], outputs: Sequence[str]) -> Any:
    """Returns a function of examples' indexes to the metric; None if it differs from `value`."""
    # Importing it takes longer than most commands, which do not need it.
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415

    scorers: list[Any] = []
    if metric == "exact_match":
        is_right = np.equal(targets, outputs)
        scorers = [lambda indexes: float(np.mean(is_right[indexes]))]
    elif metric == "bleu":
        scorers = [_corpus_scorer(BLEU(tokenize=x), targets, outputs) for x in ("intl", "13a")]
    elif metric == "chrf":
        scorers = [_corpus_scorer(CHRF(), targets, outputs)]
    everything = np.arange(len(targets))
    matching = (x for x in scorers if math.isclose(x(everything), value, rel_tol=1e-6))
    return next(matching, None) if targets else None


def _corpus_scorer(metric: Any, targets: Sequence[str], outputs: Sequence[str]) -> Any:
    """Returns sacrebleu's score of some examples, computed from statistics of each."""
    statistics = np.array(metric._extract_corpus_statistics(outputs, [targets]), np.float64)
    return lambda indexes: metric._compute_score_from_stats(statistics[indexes].sum(0)).score


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
