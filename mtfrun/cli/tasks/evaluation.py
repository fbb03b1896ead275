"""Evaluating an experiment: metrics, what simple statistics reach, and samples to read."""

from __future__ import annotations

import functools
import html
import sys
from collections.abc import Mapping, Sequence

from mtfrun import evaluation
from mtfrun.cli.tasks.decoding import Decoding
from mtfrun.cli.tasks.experiment import Experiment
from mtfrun.data import ImageData, conditional_entropy, read_bytes
from mtfrun.rundir import Summaries


class Evaluation:
    """What is measured, on which split.

    Args:
      experiment: what is evaluated.
      decoding: how samples are made; None for a classifier of images.
      batch_size: rows of a batch.
      split: the split of the data.
      max_batches: evaluate the first batches only; None takes all.
      entropy_orders: also report the entropy of the split's bytes given so many bytes before each,
        as "order_2_entropy": what the bits per byte of the model are compared with.
      sample_prompts: prompts whose continuations are shown in TensorBoard.
    """

    def __init__(
        self,
        experiment: Experiment,
        decoding: Decoding | None,
        batch_size: int,
        split: str = "validation",
        max_batches: int | None = None,
        entropy_orders: Sequence[int] = (),
        sample_prompts: Sequence[str] = (),
    ):
        experiment.check_batch(batch_size)
        if decoding is None and (entropy_orders or sample_prompts):
            raise ValueError("entropy_orders and sample_prompts are for models of text")
        self._experiment = experiment
        self._decoding = decoding
        self._batch_size = batch_size
        self._split = split
        self._max_batches = max_batches
        self._entropy_orders = entropy_orders
        self._sample_prompts = sample_prompts
        self._evaluator = evaluation.Evaluator(
            experiment.model,
            experiment.mesh,
            bytes_per_id=experiment.vocabulary.bytes_per_id if experiment.is_of_text else None,
        )

    def __call__(self, step: int, summaries: Summaries) -> dict[str, float]:
        """Returns the metrics of the model as it is, and writes them and samples as of `step`."""
        infeed = self._experiment.evaluation_infeed(
            self._batch_size, self._split, self._max_batches
        )
        metrics = {**self._evaluator(infeed), **self._entropies}
        summaries.scalars(metrics, step)
        if self._sample_prompts and self._decoding is not None:
            summaries.text("samples", self._samples(self._decoding), step)
        summaries.flush()
        return metrics

    def during_training(self, step: int, summaries: Summaries) -> None:
        """Evaluates and prints a line."""
        print(f"eval {_line(step, self(step, summaries))}", file=sys.stderr, flush=True)

    @functools.cached_property
    def _entropies(self) -> Mapping[str, float]:
        data = self._experiment.data
        if not self._entropy_orders or isinstance(data, ImageData):
            return {}
        text = read_bytes(data.source, self._split)
        return {
            f"order_{order}_entropy": conditional_entropy(text, order)
            for order in self._entropy_orders
        }

    def _samples(self, decoding: Decoding) -> str:
        """Returns continued prompts as Markdown."""
        prompts = [prompt.encode() for prompt in self._sample_prompts]
        parts = []
        for answer in decoding(prompts):
            text = html.escape(answer.output)
            parts.append(f"**{html.escape(answer.prompt)}**\n\n<pre>{text}</pre>")
        return "\n\n".join(parts)


def _line(step: int, metrics: Mapping[str, float]) -> str:
    return "  ".join([f"step {step}", *(f"{name} {value:.4f}" for name, value in metrics.items())])
