"""Small models with random weights, as a server has them."""

from __future__ import annotations

import contextlib
import functools
import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from mtfrun import data, mtf
from mtfrun.experiment import Decoding, Experiment
from mtfrun.extras.chat import ChatTemplate
from mtfrun.extras.serving.served_model import ServedModel
from mtfrun.models import transformer as t
from tests.layouts import ONE_DEVICE

MAX_LENGTH = 64
HEADS = t.AttentionHeads(num_heads=2, d_kv=8)


def language_model(
    directory: pathlib.Path, *, num_layers: int = 1, mesh_shape: str = ONE_DEVICE
) -> Experiment:
    """Returns a language model of bytes, whose likely ids are far from ties."""
    (directory / "text").write_text("some text\n")
    files = data.TextFiles(str(directory / "text"))
    task = data.Task(files, data.ByteVocabulary())
    layers: list[Any] = [functools.partial(t.SelfAttention, heads=HEADS), t.FeedForward]
    experiment = Experiment(
        mtf.Mesh(mesh_shape, "batch:data;heads:model;d_ff:model"),
        functools.partial(
            t.DecoderOnly,
            embedding=t.TokenEmbedding(16, max_length=MAX_LENGTH, tied_softmax=False),
            stack=functools.partial(t.Stack, num_layers=num_layers, layers=layers),
        ),
        data.LanguageModelData(task, length=MAX_LENGTH),
        functools.partial(Decoding, batch_size=2, max_length=MAX_LENGTH, decode_length=16),
    )
    mtf.initialize(experiment.model, seed=3)
    for variable in experiment.model.named_variables().values():
        mtf.assign(variable, 3.0 * mtf.read_variable(variable))
    return experiment


def served(directory: pathlib.Path) -> ServedModel:
    template = ChatTemplate("plain")
    return ServedModel(language_model(directory), "tiny", 7, places=[3], chat_template=template)


@contextlib.contextmanager
def run_server(config: uvicorn.Config) -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
