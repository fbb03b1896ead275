"""A model that answers requests: its programs, and the two threads that run them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import tempfile
import threading
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtfrun.configuration.errors import one_line
from mtfrun.data import ConversationTemplate, ImageData, PromptRow
from mtfrun.decoding import Controls, Guide
from mtfrun.errors import InputError
from mtfrun.experiment import Answer, Classification, Decoding, Experiment, Prediction, Score
from mtfrun.experiment.inference.classification import LabelProbability
from mtfrun.experiment.inference.decoding_batches import line_of_draws
from mtfrun.experiment.records import require
from mtfrun.extras.constraints import stop_building
from mtfrun.extras.serving.engine import BatchWorker, Engine, Request, StreamEvent, shared_batch_of
from mtfrun.extras.serving.fields import RequestError
from mtfrun.extras.serving.generation import Generation
from mtfrun.extras.serving.shared_batch import Decoded, SharedBatch
from mtfrun.extras.serving.text_stream import TextStream
from mtfrun.extras.serving.text_vectors import TextVectors
from mtfrun.extras.vision import Segmentation, SegmentationData
from mtfrun.files import Worker

# Number of inferences with other settings that stay compiled.
_CACHED = 16


class Token(NamedTuple):
    """A decoded id, as text, and its log-probability."""

    text: str
    log_prob: float


class Piece(NamedTuple):
    """A part of an output."""

    output: int  # its number, in the order of the prompts
    text: str
    num_tokens: int
    tokens: Sequence[Token]  # if log-probabilities are requested
    finish: str | None  # with the last piece: "stop" for an end or a stop text, or "length"


class Prepared(NamedTuple):
    """A request with tokenised prompts, before it is decoded."""

    generation: Generation
    decoding: Decoding
    rows: list[PromptRow]
    is_shared: bool
    guide: Guide | None

    @property
    def prompt_tokens(self) -> int:
        return sum(row.read for row in self.rows)


class _Key(NamedTuple):
    """Settings that a program is compiled for."""

    settings: tuple[tuple[str, Any], ...]
    controls: Controls
    is_chat: bool


def _key_of(generation: Generation, *, seed: int | None) -> _Key:
    settings = {**generation.settings, "num_outputs": generation.num_outputs}
    if seed is not None:
        settings["seed"] = seed
    controls = generation.controls
    if not controls.constraints:  # their guide keeps stop texts out of the required text
        controls = dataclasses.replace(controls, stop=())
    return _Key(tuple(sorted(settings.items())), controls, generation.is_chat)


class ServedModel:
    """Decodes, scores and classifies for many requests at a time.

    Attributes:
      name: the model's name in requests.
      step: its checkpoint's step.
      adapter: its adapter's name.
      engine: decodes language models in a shared batch; None for other models.
      worker: computes everything else.
    """

    def __init__(
        self,
        experiment: Experiment,
        name: str,
        step: int,
        places: Sequence[int],
        chat_template: ConversationTemplate | None = None,
        adapter: str | None = None,
    ):
        self.experiment, self.name, self.step, self.adapter = experiment, name, step, adapter
        self._chat_template = chat_template
        # The devices of a mesh wait for each other: programs in different orders would deadlock.
        device = threading.Lock() if experiment.mesh.is_distributed else contextlib.nullcontext()
        self.worker = BatchWorker(device, places[-1])
        self.inference = experiment.inference
        self._batch = shared_batch_of(self.inference, places)
        self.engine = None if self._batch is None else Engine(self._batch, device)
        # Makes guides, which may take many seconds.
        self._builder = BatchWorker(contextlib.nullcontext(), places[-1])
        self._threads: list[Worker[Any]] = [self.worker.thread, self._builder.thread]
        self._threads += [] if self.engine is None else [self.engine.thread]
        self._cached_guide = functools.lru_cache(_CACHED)(self._make_guide)
        self._cached_decoding = functools.lru_cache(_CACHED)(self._make_decoding)
        self._cached_classification = functools.lru_cache(_CACHED)(
            lambda top_k: self.classification.with_settings(
                {} if top_k is None else {"top_k": top_k}
            )
        )

    def compile(self) -> None:
        if self._batch is not None:
            self._batch.compile()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            stop_building()
            for thread in self._threads:
                thread.stop()

    @property
    def is_running(self) -> bool:
        return all(thread.is_running for thread in self._threads)

    @property
    def features(self) -> list[str]:
        features = [] if self._chat_template is None else ["chat"]
        return [*features, *([] if self.engine is None else ["logprobs"])]

    @property
    def decoding(self) -> Decoding:
        return require(self.inference, Decoding, self.name, "use /classify")

    @property
    def classification(self) -> Classification:
        return require(self.inference, Classification, self.name, "use /v1/completions")

    async def prepare(self, generation: Generation) -> Prepared:
        """Returns the rows of the prompts; RequestError or InputError if they cannot be decoded."""
        decoding = self._make_decoding(_key_of(generation, seed=generation.seed))
        is_shared = self.engine is not None and SharedBatch.decodes(decoding.search)
        if generation.with_log_probs and not is_shared:
            raise RequestError("logprobs are not available for this model, or with beams")
        # A vocabulary may take seconds for a long text.
        rows = await asyncio.to_thread(
            lambda: [self._row(decoding, prompt) for prompt in generation.prompts]
        )
        guide = None
        if decoding.search.controls.constraints:
            controls = dataclasses.replace(generation.controls, processors=())
            key = _Key((), controls, generation.is_chat)
            make = self._cached_guide
            (guide,) = await self._builder.run(key, lambda keys: list(map(make, keys)), [key])
            if isinstance(guide, InputError):
                raise guide
        return Prepared(generation, decoding, rows, is_shared, guide)

    def _make_guide(self, key: _Key) -> Guide | InputError | None:
        """Errors are cached too: they may take as long."""
        try:
            return self._make_decoding(key).writer.rules.guide
        except InputError as error:
            return error

    async def outputs(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        """Yields the outputs of all prompts in pieces, which may alternate between outputs.

        Closing the iterator frees the places.
        """
        pieces = self._in_shared_batch if prepared.is_shared else self._in_batches
        async with contextlib.aclosing(pieces(prepared)) as iterator:
            async for piece in iterator:
                yield piece

    def _row(self, decoding: Decoding, prompt: str | list[int]) -> PromptRow:
        prompt_format = decoding.prompt_format
        if isinstance(prompt, str):
            row = prompt_format.row(prompt.encode())
        else:
            size = prompt_format.prompt_vocabulary.size
            if max(prompt) >= size:
                raise RequestError(f"prompt has the id {max(prompt)}: ids are below {size}")
            row = prompt_format.row_of(np.array(prompt, np.int32))
        if row.truncated:
            raise RequestError(
                f"a prompt has {row.read + row.truncated:,} tokens, and the model reads "
                f"{row.read:,} before {decoding.decode_length:,} of output: reduce max_tokens",
                field="prompt",
            )
        if not row.prefix and not decoding.model.predicts_first_id:
            raise RequestError("a prompt is empty: this model needs a first token", field="prompt")
        return row

    async def _in_shared_batch(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        assert self.engine is not None
        generation, decoding = prepared.generation, prepared.decoding
        samples, events = generation.num_outputs, asyncio.Queue[StreamEvent]()
        requests = [
            Request(
                number,
                prepared.rows[number // samples],
                decoding.search,
                line_of_draws(*divmod(number, samples)),
                events,
                prepared.guide,
            )
            for number in range(len(prepared.rows) * samples)
        ]
        prompt_format, controls = decoding.prompt_format, decoding.search.controls
        stops = (*generation.controls.stop, *controls.stop, *prompt_format.stop)
        streams = [TextStream(prompt_format.output, stops) for _ in requests]
        end_ids = {*controls.end_ids, *prompt_format.end_ids}
        ended: set[int] = set()
        try:
            for request in requests:
                self.engine.thread.put(request)
            while len(ended) < len(requests):
                row, decoded = await events.get()
                if row in ended:
                    continue  # decoded before the row was cancelled
                if isinstance(decoded, Exception):
                    raise decoded
                decoded = _cut_at_end(decoded, end_ids)
                piece = self._piece(row, decoded, streams[row], generation)
                if piece.finish is not None:
                    ended.add(row)
                    self.engine.cancel(requests[row])
                yield piece
        finally:
            for request in requests:
                self.engine.cancel(request)

    def _piece(
        self, row: int, decoded: Decoded, stream: TextStream, generation: Generation
    ) -> Piece:
        if not np.isfinite(decoded.log_probs).all():
            raise RequestError("log-probabilities are infinite or not a number", 500)
        number = len(decoded.ids) - int(decoded.ended)
        ids = decoded.ids[:number].tolist()
        text = stream.add(ids, is_last=decoded.done)
        finish = None
        if decoded.done or stream.is_stopped:
            finish = "stop" if decoded.complete or stream.is_stopped else "length"
        tokens: list[Token] = []
        if generation.with_log_probs:
            token_text = self.decoding.prompt_format.output_vocabulary.token_text
            log_probs = decoded.log_probs[:number].tolist()
            tokens = [Token(token_text(i), p) for i, p in zip(ids, log_probs, strict=True)]
        return Piece(row, text, number, tokens, finish)

    async def _in_batches(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        """Yields whole outputs, of the program of `mtfrun decode`."""
        generation, decoding = prepared.generation, prepared.decoding
        # A program is compiled for each of these, and for a seed if there are draws.
        seed = generation.seed if decoding.search.temperature else None
        key = _key_of(generation, seed=seed)

        def answer(prompts: list[str]) -> list[Answer]:
            return self._cached_decoding(key)([prompt.encode() for prompt in prompts])

        if not all(isinstance(prompt, str) for prompt in generation.prompts):
            raise RequestError("prompts of ids are not for this model, or with beams: send texts")
        answers = await self.worker.run(key, answer, list(generation.prompts))
        for number, result in enumerate(x for answer in answers for x in answer.outputs):
            to_text = functools.partial(lambda text, _: str(text), result.text)
            stream = TextStream(to_text, generation.controls.stop)
            text = stream.add([], is_last=True)
            finish = "stop" if result.finished or stream.is_stopped else "length"
            yield Piece(number, text, result.tokens, (), finish)

    async def scores(self, pairs: list[tuple[bytes, bytes]]) -> Sequence[Score]:
        return await self.worker.run("score", self.decoding.scoring, pairs)

    async def vectors(self, texts: list[str] | list[list[int]]) -> tuple[list[np.ndarray], int]:
        """Returns the vector of each text, and the number of all tokens."""
        decoding = self.decoding
        rows = await asyncio.to_thread(lambda: [self._row(decoding, text) for text in texts])
        if not all(row.read for row in rows):
            raise RequestError("a text without tokens has no vector", field="input")
        vectors = await self.worker.run("vectors", self._vectors, rows)
        return list(vectors), sum(row.read for row in rows)

    @functools.cached_property
    def _vectors(self) -> TextVectors:
        decoding = self.decoding
        return TextVectors(self.experiment, decoding.batch_size, decoding.prompt_format)

    async def classify_texts(self, texts: list[str]) -> Sequence[Prediction]:
        if not self.decoding.prompt_format.classifies:
            raise RequestError(f"{self.name} does not classify texts: use /v1/completions", 404)

        def classify(texts: list[str]) -> list[Prediction]:
            answers = self.decoding([text.encode() for text in texts])
            top = [LabelProbability(x.output, math.exp(x.outputs[0].score)) for x in answers]
            return [Prediction(*best, [best]) for best in top]

        return await self.worker.run("classify", classify, texts)

    async def classify_images(self, images: list[bytes], top_k: int | None) -> Sequence[Prediction]:
        """images: contents of files."""
        classification = self._cached_classification(top_k)
        pixels = await _read_images(classification.data, images)
        return await self.worker.run(("classify", top_k), classification, pixels)

    @property
    def segmentation(self) -> Segmentation:
        return require(self.inference, Segmentation, self.name, "use /classify")

    async def segment_images(self, images: list[bytes]) -> Sequence[np.ndarray]:
        """Returns masks uint8 [rows, cols]; images: contents of files."""
        pixels = await _read_images(self.segmentation.data, images)
        return await self.worker.run("segment", self.segmentation, pixels)

    def _make_decoding(self, key: _Key) -> Decoding:
        if key.is_chat and self._chat_template is None:
            raise RequestError("there is no chat template: start with --chat_template=chatml")
        chat = {"chat": self._chat_template} if key.is_chat else {}
        search, added = self.decoding.search, key.controls
        controls = dataclasses.replace(
            search.controls,
            processors=(*search.controls.processors, *added.processors),
            constraints=(*search.controls.constraints, *added.constraints),
            stop=(*search.controls.stop, *added.stop),
        )
        search = dataclasses.replace(search, controls=controls)
        decoding = dataclasses.replace(self.decoding, search=search)
        return decoding.with_settings({**dict(key.settings), **chat})


def _cut_at_end(decoded: Decoded, end_ids: Collection[int]) -> Decoded:
    """Cuts the ids after the first of further end ids."""
    ends = np.flatnonzero(np.isin(decoded.ids, list(end_ids)))
    if not ends.size:
        return decoded
    size = int(ends[0]) + 1
    ids, log_probs = decoded.ids[:size], decoded.log_probs[:size]
    return Decoded(decoded.place, ids, log_probs, ended=True, complete=True, done=True)


async def _read_images(data: ImageData | SegmentationData, images: list[bytes]) -> list[np.ndarray]:
    return await asyncio.to_thread(
        lambda: [_read_image(data, *image) for image in enumerate(images)]
    )


def _read_image(data: ImageData | SegmentationData, number: int, content: bytes) -> np.ndarray:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            return data.read_image(file.name)
        except InputError as error:
            name = f"image {number}"
            raise RequestError(one_line(error).replace(file.name, name), field="images") from error
