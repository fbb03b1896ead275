"""A model that answers requests: its programs, and the threads that run them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import math
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from mtfrun.configuration.errors import one_line
from mtfrun.data import ConversationTemplate, PromptRow
from mtfrun.decoding import Controls, Guide
from mtfrun.errors import InputError
from mtfrun.experiment import Answer, Decoding, Experiment, Score
from mtfrun.experiment.inference.answers import LogProb
from mtfrun.experiment.inference.classification import ImageInference
from mtfrun.experiment.inference.decoding_batches import line_of_draws
from mtfrun.experiment.records import Images, Record, require
from mtfrun.extras.constraints import stop_building
from mtfrun.extras.serving.engine import Batches, Engine, Request
from mtfrun.extras.serving.fields import RequestError
from mtfrun.extras.serving.generation import DecodingKey, Generation
from mtfrun.extras.serving.shared_batch import Decoded, SharedBatch, shared_batch_of
from mtfrun.extras.serving.text_stream import TextStream
from mtfrun.extras.serving.text_vectors import TextVectors

# Number of inferences with other settings that stay compiled.
_CACHED = 16


class Piece(NamedTuple):
    """A part of an output."""

    output: int  # its number, in the order of the prompts
    text: str
    num_tokens: int
    tokens: Sequence[LogProb]  # if log-probabilities are requested
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

    @property
    def outputs(self) -> int:
        """The number of outputs of all prompts."""
        return len(self.rows) * self.decoding.num_outputs


class ServedModel:
    """Decodes, scores and classifies for many requests at a time.

    Attributes:
      name: the model's name in requests.
      step: its checkpoint's step.
      adapter: its adapter's name.
      engine: decodes language models in a shared batch; None for other models.
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
        self.name, self.step, self.adapter = name, step, adapter
        self.inference = experiment.inference
        self._chat_template = chat_template
        device = ThreadPoolExecutor(1)
        # The devices of a mesh wait for each other: programs in different orders would deadlock.
        other = device if experiment.mesh.is_distributed else ThreadPoolExecutor(1)
        # Makes guides, which may take many seconds.
        self._builder = ThreadPoolExecutor(1)
        self._executors = (device, other, self._builder)
        batch = shared_batch_of(self.inference, places)
        self.engine = None if batch is None else Engine(batch, device)
        self._batches = Batches(other, places[-1])
        self._decoding_task: asyncio.Task[None] | None = None
        self._cached_guide = functools.lru_cache(_CACHED)(self._make_guide)
        self._cached_decoding = functools.lru_cache(_CACHED)(self._make_decoding)
        self._cached_images = functools.lru_cache(_CACHED)(self._make_images)

    def compile(self) -> None:
        if self.engine is not None:
            self.engine.batch.compile()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        if self.engine is not None:
            task = self._decoding_task = asyncio.create_task(self.engine.run())
            # An error is a defect: the loop prints it.
            task.add_done_callback(lambda task: task.cancelled() or task.result())
        try:
            yield
        finally:
            stop_building()
            if self._decoding_task is not None:
                self._decoding_task.cancel()
            for executor in self._executors:
                executor.shutdown(cancel_futures=True)

    @property
    def is_running(self) -> bool:
        return self._decoding_task is None or not self._decoding_task.done()

    @property
    def features(self) -> list[str]:
        features = [] if self._chat_template is None else ["chat"]
        return [*features, *([] if self.engine is None else ["logprobs"])]

    @property
    def decoding(self) -> Decoding:
        return require(self.inference, Decoding, self.name, "use /classify")

    async def prepare(self, generation: Generation) -> Prepared:
        """Returns the rows of the prompts; RequestError or InputError if they cannot be decoded."""
        decoding = self._make_decoding(generation.key_with_seed)
        is_shared = self.engine is not None and SharedBatch.decodes(decoding.search)
        if generation.with_log_probs and not is_shared:
            raise RequestError("logprobs are not available for this model, or with beams")
        rows = await self._rows(decoding, generation.prompts)
        guide: Guide | None = None
        if decoding.search.controls.constraints:
            _, controls, is_chat = generation.key
            key = DecodingKey((), dataclasses.replace(controls, processors=()), is_chat)
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(self._builder, self._cached_guide, key)
            if isinstance(result, InputError):
                raise result
            guide = result
        return Prepared(generation, decoding, rows, is_shared, guide)

    def _make_guide(self, key: DecodingKey) -> Guide | InputError | None:
        """Errors are cached too: they may take as long."""
        try:
            return self._make_decoding(key).writer.rules.guide
        except InputError as error:
            return error

    def _make_decoding(self, key: DecodingKey) -> Decoding:
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

    async def _rows(
        self, decoding: Decoding, prompts: Sequence[str] | Sequence[list[int]]
    ) -> list[PromptRow]:
        # A vocabulary may take seconds for a long text.
        return await asyncio.to_thread(lambda: [_row(decoding, prompt) for prompt in prompts])

    def outputs(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        """Yields the outputs of all prompts in pieces, which may alternate between outputs.

        Closing the iterator frees the places.
        """
        pieces = self._in_shared_batch if prepared.is_shared else self._in_batches
        return pieces(prepared)

    async def _in_shared_batch(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        assert self.engine is not None
        generation, decoding = prepared.generation, prepared.decoding
        prompt_format, controls = decoding.prompt_format, decoding.search.controls
        stops = (*generation.stop, *controls.stop, *prompt_format.stop)
        end_ids = {*controls.end_ids, *prompt_format.end_ids}
        events = asyncio.Queue[tuple[Request, Decoded | Exception]]()
        requests = []
        for output in range(prepared.outputs):
            prompt, sample = divmod(output, decoding.num_outputs)
            row, line = prepared.rows[prompt], line_of_draws(prompt, sample)
            stream = TextStream(prompt_format.output, stops)
            requests.append(
                Request(output, row, decoding.search, prepared.guide, line, stream, events)
            )
        open_requests = set(requests)
        try:
            for request in requests:
                self.engine.put(request)
            while open_requests:
                request, decoded = await events.get()
                if request not in open_requests:
                    continue  # decoded before the row was cancelled
                if isinstance(decoded, Exception):
                    raise decoded
                piece = _piece(request, _cut_at_end(decoded, end_ids), prepared)
                if piece.finish is not None:
                    open_requests.remove(request)
                    self.engine.cancel(request)
                yield piece
        finally:
            for request in open_requests:
                self.engine.cancel(request)

    async def _in_batches(self, prepared: Prepared) -> AsyncGenerator[Piece]:
        """Yields whole outputs, of the program of `mtfrun decode`."""
        generation = prepared.generation
        # A program is compiled for each of these, and for a seed if there are draws.
        draws = prepared.decoding.search.temperature
        key = generation.key_with_seed if draws else generation.key

        def answer(prompts: list[str]) -> list[Answer]:
            return self._cached_decoding(key)([prompt.encode() for prompt in prompts])

        if not all(isinstance(prompt, str) for prompt in generation.prompts):
            raise RequestError("prompts of ids are not for this model, or with beams: send texts")
        answers = await self._batches.run(key, answer, list(generation.prompts))
        controls = Controls(stop=generation.stop)
        for number, result in enumerate(x for answer in answers for x in answer.outputs):
            text = controls.cut(result.text)
            finish = "stop" if result.finished or text != result.text else "length"
            yield Piece(number, text, result.tokens, (), finish)

    async def scores(self, pairs: list[tuple[bytes, bytes]]) -> Sequence[Score]:
        return await self._batches.run("score", self.decoding.scoring, pairs)

    async def vectors(self, texts: list[str] | list[list[int]]) -> tuple[list[np.ndarray], int]:
        """Returns the vector of each text, and the number of all tokens."""
        rows = await self._rows(self.decoding, texts)
        if not all(row.read for row in rows):
            raise RequestError("a text without tokens has no vector", field="input")
        vectors = await self._batches.run("vectors", self._vectors, rows)
        return list(vectors), sum(row.read for row in rows)

    @functools.cached_property
    def _vectors(self) -> TextVectors:
        return TextVectors(self.decoding)

    async def classify_texts(self, texts: list[str]) -> Sequence[dict[str, object]]:
        """Returns the fields that `Classification.records` have."""
        if not self.decoding.prompt_format.classifies:
            raise RequestError(f"{self.name} does not classify texts: use /v1/completions", 404)

        def classify(texts: list[str]) -> list[dict[str, object]]:
            answers = self.decoding([text.encode() for text in texts])
            best = [
                {"label": x.output, "probability": math.exp(x.outputs[0].score)} for x in answers
            ]
            return [{**label, "top": [label]} for label in best]

        return await self._batches.run("classify", classify, texts)

    async def images(
        self, kind: type[ImageInference], contents: list[bytes], top_k: int | None = None
    ) -> Sequence[Record]:
        """Returns the records of an inference of this kind; contents: of files of images."""
        inference = self._cached_images(kind, top_k)
        images = await asyncio.to_thread(_read_images, inference.data.read_image, contents)

        def compute(images: list[np.ndarray]) -> Sequence[Record]:
            return inference.records(Images(len(images), ((image, {}) for image in images)))

        return await self._batches.run((kind, top_k), compute, images)

    def _make_images(self, kind: type[ImageInference], top_k: int | None) -> ImageInference:
        remedy = "use another path, such as /v1/completions, /classify or /segment"
        inference = require(self.inference, kind, self.name, remedy)
        return inference if top_k is None else inference.with_settings({"top_k": top_k})


def _row(decoding: Decoding, prompt: str | list[int]) -> PromptRow:
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


def _piece(request: Request, decoded: Decoded, prepared: Prepared) -> Piece:
    if not np.isfinite(decoded.log_probs).all():
        raise RequestError("log-probabilities are infinite or not a number", 500)
    number = len(decoded.ids) - int(decoded.ended)
    ids = decoded.ids[:number].tolist()
    text = request.stream.add(ids, is_last=decoded.done)
    finish = "length" if decoded.done else None
    if decoded.complete or request.stream.is_stopped:
        finish = "stop"
    tokens: list[LogProb] = []
    if prepared.generation.with_log_probs:
        token_text = prepared.decoding.prompt_format.output_vocabulary.token_text
        log_probs = decoded.log_probs[:number].tolist()
        tokens = [LogProb(i, token_text(i), p) for i, p in zip(ids, log_probs, strict=True)]
    return Piece(request.output, text, number, tokens, finish)


def _cut_at_end(decoded: Decoded, end_ids: Collection[int]) -> Decoded:
    """Cuts the ids after the first of further end ids."""
    ends = np.flatnonzero(np.isin(decoded.ids, list(end_ids)))
    if not ends.size:
        return decoded
    size = int(ends[0]) + 1
    ids, log_probs = decoded.ids[:size], decoded.log_probs[:size]
    return Decoded(decoded.place, ids, log_probs, ended=True, complete=True, done=True)


def _read_images(read: Callable[[str], np.ndarray], contents: list[bytes]) -> list[np.ndarray]:
    images = []
    for number, content in enumerate(contents):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            try:
                images.append(read(file.name))
            except InputError as error:
                problem = one_line(error).replace(file.name, f"image {number}")
                raise RequestError(problem, field="images") from error
    return images
