"""Evaluating an experiment: metrics, what simple statistics reach, and samples to read."""

from __future__ import annotations

import functools
import html
import math
from collections.abc import Callable, Mapping, Sequence

from mtfrun import evaluation
from mtfrun.data import (
    INPUTS,
    TARGETS,
    LanguageModelData,
    PairsData,
    conditional_entropy,
    read_bytes,
    reading,
)
from mtfrun.errors import InputError
from mtfrun.experiment.classification import Classification
from mtfrun.experiment.decoding import Decoding
from mtfrun.experiment.evaluation_pictures import EvaluationPictures
from mtfrun.experiment.experiment import Experiment
from mtfrun.rundir import Summaries, write_metrics

# Decodes in TensorBoard.
SHOWN_DECODES = 10

TextMetrics = Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]


class Evaluation:
    """What is measured, on which split.

    Args:
      experiment: what is evaluated.
      decoding: how samples are made; None for a classifier of images.
      classification: how images are classified; None for a model of text.
      batch_size: rows of a batch.
      split: the split of the data.
      max_batches: evaluate the first batches only; None takes all.
      entropy_orders: also report the entropy of the split's bytes given so many bytes before each,
        as "order_2_entropy": what the bits per byte of the model are compared with.
      sample_prompts: prompts whose outputs are shown in TensorBoard.
      num_decodes: of pairs, decode so many inputs from the split's beginning: "token_accuracy" and
        `decode_metrics` say how near they are, and TensorBoard shows the first.
      decode_metrics: functions of all outputs and all references that return metrics by name.
      num_images: of images, show so many from the split's beginning with their predictions.
    """

    def __init__(
        self,
        experiment: Experiment,
        decoding: Decoding | None,
        classification: Classification | None,
        batch_size: int,
        split: str = "validation",
        max_batches: int | None = None,
        entropy_orders: Sequence[int] = (),
        sample_prompts: Sequence[str] = (),
        num_decodes: int = 0,
        decode_metrics: Sequence[TextMetrics] = (evaluation.text_metrics,),
        num_images: int = 32,
    ):
        experiment.check_batch(batch_size)
        if decoding is None and (entropy_orders or sample_prompts):
            raise InputError("entropy_orders and sample_prompts are for models of text")
        if num_decodes and not isinstance(experiment.data, PairsData):
            raise InputError(
                f"num_decodes={num_decodes} needs pairs to compare outputs with: set it to 0 or "
                "use @data.SequenceToSequenceData() or @data.DelimitedPairsData()"
            )
        self._experiment = experiment
        self._decoding = decoding
        self._batch_size = batch_size
        self._split = split
        self._max_batches = max_batches
        self._entropy_orders = entropy_orders
        self._sample_prompts = sample_prompts
        self._num_decodes = num_decodes
        self._pictures = None
        if classification is not None:
            self._pictures = EvaluationPictures(classification, split, num_images)
        self._decode_metrics = decode_metrics
        self._evaluator = evaluation.Evaluator(
            experiment.model,
            experiment.mesh,
            bytes_per_id=experiment.vocabulary.bytes_per_id if experiment.is_of_text else None,
        )

    def check_split(self) -> None:
        """Raises DataError unless the split has a first batch, which is read."""
        self._experiment.check_split(self._batch_size, self._split)

    def __call__(
        self,
        step: int,
        summaries: Summaries | None,
        before_batch: Callable[[], None] = lambda: None,
    ) -> dict[str, float]:
        """Returns the metrics of the model as it is.

        Writes them and samples as of `step`, unless there is nowhere to write them. Of a model
        whose metrics are not finite nothing is decoded. `before_batch` may raise to stop.
        """

        def progress(done: int) -> None:
            before_batch()

        infeed = self._experiment.evaluation_infeed(
            self._batch_size, self._split, self._max_batches
        )
        measured = self._evaluator.measure(infeed, before_batch)
        metrics = {**measured.values, **self._entropies}
        is_finite = all(map(math.isfinite, measured.values.values()))
        decoding = self._decoding if is_finite else None
        texts = {}
        if self._num_decodes and decoding is not None:
            decoded, texts["decodes"] = self._compared_decodes(decoding, progress)
            metrics |= decoded
        pictures = {}
        if self._pictures is not None and is_finite:
            pictures = self._pictures(measured.tables, progress)
        if summaries is None:
            return metrics
        if self._sample_prompts and decoding is not None:
            texts["samples"] = self._samples(decoding, progress)
        write_metrics(summaries, metrics, step)
        for tag, text in texts.items():
            summaries.text(tag, text, step)
        for tag, picture in pictures.items():
            summaries.image(tag, picture, step)
        summaries.flush()
        return metrics

    def during_training(
        self,
        step: int,
        summaries: Summaries,
        note: Callable[[str], None],
        before_batch: Callable[[], None],
    ) -> None:
        """Evaluates and gives `note` a line. `before_batch` may raise to stop."""
        note(f"eval {_line(step, self(step, summaries, before_batch))}")

    @functools.cached_property
    def _entropies(self) -> Mapping[str, float]:
        data = self._experiment.data
        if not self._entropy_orders or not isinstance(data, LanguageModelData):
            return {}
        text = read_bytes(data.source, self._split)
        return {
            f"order_{order}_entropy": conditional_entropy(text, order)
            for order in self._entropy_orders
        }

    def _compared_decodes(
        self, decoding: Decoding, progress: Callable[[int], None]
    ) -> tuple[dict[str, float], str]:
        """Returns metrics of decoded inputs, and the first ones as Markdown."""
        data = self._experiment.data
        assert isinstance(data, PairsData)
        first = data.source.pairs(self._split).take(self._num_decodes)
        with reading(data.source):
            pairs = list(first.as_numpy_iterator())
        answers = decoding([pair[INPUTS] for pair in pairs], progress)
        outputs = [answer.output for answer in answers]
        references = [pair[TARGETS].decode("utf-8", "replace") for pair in pairs]
        encode = data.vocabulary.encode
        metrics: dict[str, float] = {}
        for measure in self._decode_metrics:
            metrics |= measure(outputs, references)
        metrics["token_accuracy"] = evaluation.token_accuracy(
            [encode(text) for text in outputs], [encode(text) for text in references]
        )
        shown = [
            f"**{html.escape(answer.prompt)}**\n\n<pre>{html.escape(answer.output)}</pre>\n\n"
            f"wanted: <pre>{html.escape(reference)}</pre>"
            for answer, reference in zip(answers[:SHOWN_DECODES], references, strict=False)
        ]
        return metrics, "\n\n".join(shown)

    def _samples(self, decoding: Decoding, progress: Callable[[int], None]) -> str:
        """Returns continued prompts as Markdown."""
        prompts = [prompt.encode() for prompt in self._sample_prompts]
        parts = []
        for answer in decoding(prompts, progress):
            text = html.escape(answer.output)
            parts.append(f"**{html.escape(answer.prompt)}**\n\n<pre>{text}</pre>")
        return "\n\n".join(parts)


def _line(step: int, metrics: Mapping[str, float]) -> str:
    # Those of single layers have paths: TensorBoard shows them.
    own = (f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name)
    return "  ".join([f"step {step}", *own])
