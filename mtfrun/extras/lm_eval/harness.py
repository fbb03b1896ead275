"""Judges a trained run by lm-evaluation-harness.

    python -m mtfrun.extras.lm_eval.harness run --model mtfrun --model_args model_dir=RUN ...

lm_eval finds no models of other packages: this command registers mtfrun's, and hands its arguments
on to lm_eval. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import mtfrun
from mtfrun.display import progress
from mtfrun.display.progress import Work
from mtfrun.display.tensorflow_import import import_tensorflow
from mtfrun.errors import InputError, install_command
from mtfrun.errors.checks import INDEX, check_range

with import_tensorflow() if "tensorflow" not in sys.modules else contextlib.nullcontext():
    from mtfrun import mtf
    from mtfrun.data import INPUTS, TARGETS, pad_rows
    from mtfrun.data.prompts import bucket
    from mtfrun.experiment import Decoding
    from mtfrun.experiment.records import require, split_into_batches

# Tokens of an output where a task sets no limit, as lm_eval's other models have it.
_MOST_TOKENS = 256
_NO_LIMIT = 1_000_000
# lm_eval's names of the limit of an output's tokens.
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_SAMPLING = ("temperature", "top_k", "top_p")


class _Row(NamedTuple):
    """Features of a model as ids, and what their logits, from `begin` on, should predict."""

    features: Mapping[str, np.ndarray]
    expected: np.ndarray
    begin: int


class JudgedModel:
    """The methods by which lm_eval judges a model; `register` makes it a class of lm_eval.

    Texts are encoded as lm_eval's `hf` does it: of a language model a context and its continuation
    together, with the begin token of the vocabulary if it has one. Where the model must read an id
    before the first one, an empty context is that token, or else the end token.

    Args:
      model_dir: the directory of a run, or of an imported model.
      adapter: a name in `model_dir`/adapters, or the directory of a run of adapters.
      batch_size: rows of a batch; None, or "auto", for the run's `Decoding.batch_size`.
      max_length: ids of context and continuation, or of the prompt and its output, of a language
        model; None for `Decoding.max_length`.
      prefix_token_id: the id that is read in the place of an empty context.
      device, max_batch_size: settings of lm_eval; ignored.
      **settings: arguments of `mtfrun.load`, such as checkpoint, mesh, and values of macros.
    """

    def __init__(
        self,
        model_dir: str,
        *,
        adapter: str | None = None,
        batch_size: int | str | None = None,
        max_length: int | None = None,
        prefix_token_id: int | None = None,
        device: str | None = None,
        max_batch_size: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        del device, max_batch_size
        check_range("prefix_token_id", prefix_token_id, INDEX, optional=True)
        params = {
            "batch_size": None if str(batch_size).startswith("auto") else batch_size,
            "max_length": max_length,
            # The task alone says how long an answer may be.
            "decode_length_multiplier": 0.0,
            "decode_length_constant": _NO_LIMIT,
        }
        modules = settings.pop("gin_allow_imports", ())
        if isinstance(modules, str):  # a value of --model_args has no comma
            modules = list(filter(None, modules.split(";")))
        run = mtfrun.load(
            model_dir,
            gin_params=[f"Decoding.{n} = {x}" for n, x in params.items() if x is not None],
            gin_allow_imports=modules,
            adapters=[] if adapter is None else [adapter],
            **settings,
        )
        if adapter is not None:
            run = run.adapters[adapter]
        remedy = "judge a run whose Experiment.inference is @experiment.Decoding"
        decoding = require(run.experiment.inference, Decoding, "lm_eval", remedy)
        # Prompts have the form of the task, whatever the run was trained on.
        self._decoding = decoding.with_settings({"chat": None})
        self._scores = PairScores(self._decoding, prefix_token_id)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Returns the score of each (context, continuation), see `PairScores`."""
        return self._scores([self._scores.encode_pair(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Returns the log-likelihood of each text, every token of it with all context there is."""
        windows = [list(self._scores.windows(request.args[0])) for request in requests]
        scores = iter(self._scores([pair for text_pairs in windows for pair in text_pairs]))
        return [float(sum(next(scores)[0] for _ in text_pairs)) for text_pairs in windows]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Returns the output for each (context, settings), before the first stop string."""
        outputs: dict[int, str] = {}
        by_settings: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            by_settings.setdefault(repr(request.args[1]), []).append(i)
        for indices in by_settings.values():
            settings = requests[indices[0]].args[1]
            until = settings.get("until") or []
            contexts = [requests[i].args[0].encode() for i in indices]
            answers = self._decoding.with_settings(_decoding_settings(settings))(contexts)
            for i, answer in zip(indices, answers, strict=True):
                outputs[i] = answer.output
                for stop in filter(None, [until] if isinstance(until, str) else until):
                    outputs[i] = outputs[i].partition(stop)[0]
        return [outputs[i] for i in range(len(requests))]


class PairScores:
    """The log-likelihoods of continuations of ids after their contexts.

    A score is the sum in nats, and whether each id is the likeliest at its place.
    """

    def __init__(self, decoding: Decoding, prefix_token_id: int | None) -> None:
        self._experiment = decoding.experiment
        self._rows = decoding.experiment.rows_for(decoding.batch_size)
        self._format = decoding.prompt_format
        self._model = decoding.model
        # An id that is read predicts the next one; as a target it is predicted.
        by_inputs = [set(names) for names in self._model.logits_features]
        self._reads_as_they_are = not self._model.predicts_first_id and {INPUTS} in by_inputs
        self._longest = self._format.max_lengths[TARGETS]
        self._begin = self._format.prompt_vocabulary.encode("")
        if prefix_token_id is not None:
            self._prefix = np.array([prefix_token_id], np.int32)
        elif len(self._begin) or self._model.predicts_first_id:
            self._prefix = self._begin
        else:
            self._prefix = np.array([self._format.prompt_vocabulary.end_id], np.int32)
        self._program = mtf.function(self._score)

    def __call__(self, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[tuple[float, bool]]:
        """Returns the score of each continuation after its context, in order."""
        rows = [self._row(*pair) for pair in pairs]
        # Rows of similar lengths are in one batch.
        order = sorted(range(len(rows)), key=lambda i: [*map(len, rows[i].features.values())])
        scores: dict[int, tuple[float, bool]] = {}
        with Work("scoring", len(rows), "requests") as work:
            for batch in split_into_batches(order, self._rows):
                scores.update(zip(batch, self._batch([rows[i] for i in batch]), strict=True))
                work.move_to(len(scores))
        return [scores[i] for i in range(len(rows))]

    def encode_pair(self, context: str, continuation: str) -> tuple[np.ndarray, np.ndarray]:
        """Spaces at the end of a context belong to the continuation, as tokenizers have them."""
        text = context.rstrip()
        continuation = context[len(text) :] + continuation
        if not self._format.continues:
            target = self._format.output_vocabulary.encode(continuation)
            return self._encode_context(text), target
        vocabulary = self._format.prompt_vocabulary
        if text:
            ids = vocabulary.encode(text)
            return ids, vocabulary.encode(text + continuation)[len(ids) :]
        ids = vocabulary.encode(continuation)[len(self._begin) :]
        if len(self._prefix) and np.array_equal(ids[:1], self._prefix):
            return ids[:1], ids[1:]
        return self._prefix, ids

    def windows(self, text: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields contexts and continuations in which every id of a text is once to be predicted."""
        if self._format.continues:
            prefix, ids = self._prefix, self._format.prompt_vocabulary.encode(text)
        else:
            prefix = self._encode_context("")
            ids = np.append(self._format.output_vocabulary.encode(text), self._format.after)
        for begin in range(0, len(ids), self._longest):
            end = min(begin + self._longest, len(ids))
            context = ids[max(0, end - self._longest - 1) : begin] if begin else prefix
            yield context, ids[begin:end]

    def _encode_context(self, context: str) -> np.ndarray:
        ids = self._format.prompt_vocabulary.encode(context)
        return np.append(ids, self._format.after).astype(np.int32)

    def _row(self, context: np.ndarray, continuation: np.ndarray) -> _Row:
        """Contexts that are too long lose their beginning."""
        if INPUTS in self._format.max_lengths:
            inputs = context[-self._format.max_lengths[INPUTS] :]
            targets = continuation[-self._longest :]
            return _Row({INPUTS: inputs, TARGETS: targets}, targets, 0)
        ids = np.concatenate([context, continuation]).astype(np.int32)
        if self._reads_as_they_are:
            ids = ids[-self._longest - 1 :]
            return _Row({INPUTS: ids[:-1]}, ids[1:], len(ids) - 1 - len(continuation))
        ids = ids[-self._longest :]
        return _Row({TARGETS: ids}, ids, max(0, len(ids) - len(continuation)))

    def _batch(self, rows: Sequence[_Row]) -> Iterator[tuple[float, bool]]:
        batch, length = mtf.Dimension("batch", self._rows), 0

        def tensor(ids: list[np.ndarray], length: int, padding: int) -> mtf.Tensor:
            array = pad_rows(ids, batch.size, length, padding)
            dims = [batch, mtf.Dimension("length", length)]
            return mtf.import_tf_tensor(self._experiment.mesh, array, dims)

        padding = {INPUTS: 0} if INPUTS in self._format.max_lengths else {}
        pad_id, features = self._format.output_vocabulary.pad_id, {}
        for name in rows[0].features:
            ids = [row.features[name] for row in rows]
            length = bucket(max(map(len, ids)), self._format.max_lengths.get(name, self._longest))
            features[name] = tensor(ids, length, padding.get(name, pad_id))
        # The targets, or the inputs of a model that has no other feature, are the last.
        expected = tensor([row.expected for row in rows], length, 0)
        log_probs, is_greedy = mtf.to_numpy(self._program(features, expected))
        for row, log_probs_of_row, greedy in zip(rows, log_probs, is_greedy, strict=False):
            scored = slice(row.begin, len(row.expected))
            total = float(np.sum(log_probs_of_row[scored], dtype=np.float64))
            self._experiment.require_finite(total, "log-likelihoods")
            yield total, bool(np.all(greedy[scored]))

    def _score(
        self, features: Mapping[str, mtf.Tensor], expected: mtf.Tensor
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns the log-probability of every expected id, and whether it is the likeliest."""
        logits, vocab = self._model.logits(features), self._model.vocab
        log_probs = mtf.negative(mtf.sparse_softmax_cross_entropy(logits, expected, vocab))
        return log_probs, mtf.equal(mtf.argmax(logits, vocab), expected)


def _decoding_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings of `Run.decode`."""
    limits = [settings[name] for name in _LIMITS if settings.get(name) is not None]
    decoding = {
        "decode_length": int(next(iter(limits), _MOST_TOKENS)),
        "temperature": 0.0,
        "beam_size": int(settings.get("num_beams", 1)),
    }
    samples = settings.get("do_sample")
    if samples or (samples is None and settings.get("temperature")):
        decoding["temperature"] = 1.0
        decoding |= {name: settings[name] for name in _SAMPLING if name in settings}
    return decoding


def register() -> None:
    """Makes `mtfrun` a model of lm_eval in this process.

    InputError if lm_eval is not installed.
    """
    try:
        import lm_eval.models  # noqa: F401, PLC0415 - an extra; it registers lm_eval's own models
        from lm_eval.api.model import LM  # noqa: PLC0415 - as above
        from lm_eval.api.registry import register_model  # noqa: PLC0415 - as above
    except ImportError as error:
        command = install_command("lm_eval")
        raise InputError(f"judging needs the package lm_eval ({error}): {command}") from error
    register_model("mtfrun")(type("Mtfrun", (JudgedModel, LM), {}))


def main() -> int:
    try:
        register()
        from lm_eval.__main__ import cli_evaluate  # noqa: PLC0415 - an extra

        cli_evaluate()
    except InputError as error:
        progress.note(progress.error(str(error)))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
