"""A trained run in Python."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from mtfrun import mtf
from mtfrun.checkpoints.mirror import registry
from mtfrun.configuration.arguments import check_optional_text, list_of, pairs_of, quote, texts_of
from mtfrun.configuration.errors import one_line_errors
from mtfrun.configuration.ranges import numbers_of
from mtfrun.data import ImageData
from mtfrun.errors import InputError
from mtfrun.experiment.adapters import find_adapter
from mtfrun.experiment.experiment import Experiment, Inference
from mtfrun.experiment.inference.answers import Answer
from mtfrun.experiment.inference.classification import Classification, Prediction
from mtfrun.experiment.inference.decoding import Decoding
from mtfrun.experiment.inference.logits import Features, Logits
from mtfrun.experiment.inference.scoring import Score
from mtfrun.experiment.records import require
from mtfrun.experiment.runs.opening import (
    RunObjects,
    Settings,
    build_run,
    find_trained_run,
    restore_model,
)
from mtfrun.experiment.runs.run_training import prepare, run_training
from mtfrun.experiment.training import TrainChoices
from mtfrun.files import is_url
from mtfrun.models import Model
from mtfrun.rundir import RunDirectory

# The devices of a mesh wait for each other: two programs that start in another order on each would
# wait for ever. All meshes of a process have the same devices.
_devices = threading.RLock()

# Copies of the decoding with other settings, whose programs stay compiled.
_SETTINGS_KEPT = 16


class Run:
    """A trained model with its data; made by `mtfrun.load` and `mtfrun.train`.

    Its methods do what the commands `decode`, `score` and `eval` do, with the same results, and
    raise InputError with the line that the command prints, or NonFiniteError if an output is
    infinite or not a number. Programs stay compiled between calls. Several threads may call them,
    also of several runs: on one device they compute concurrently, on a mesh one after the other.

    Attributes:
      step: the checkpoint's step.
      model_dir: the directory of the run; None for a model without one.
      adapters: the model with each adapter, by its name in `mtfrun.load`, as a run whose weights
        belong to this run: `run.adapters["formal"].decode(prompts)`.
    """

    def __init__(
        self,
        objects: RunObjects,
        step: int,
        model_dir: str | None,
        adapters: Mapping[str, Run] = MappingProxyType({}),
    ) -> None:
        self.experiment: Experiment = objects.experiment
        self.step = step
        self.model_dir = model_dir
        self.adapters = adapters
        self._evaluation_of = functools.lru_cache(
            functools.partial(objects.evaluation.outside_training, objects.bindings)
        )
        self._logits = Logits(objects.experiment)
        self._inference_with = functools.lru_cache(_SETTINGS_KEPT)(self._changed_inference)

    def __repr__(self) -> str:
        name = type(self.model).__name__
        return f"<Run of {name}, step {self.step}, {self.model_dir or 'without a directory'}>"

    @property
    def model(self) -> Model:
        return self.experiment.model

    @property
    def mesh(self) -> mtf.Mesh:
        return self.experiment.mesh

    def variables(self) -> dict[str, np.ndarray]:
        """Returns the value of every variable of the model by its path."""
        with self._in_use():
            values: dict[str, np.ndarray] = mtf.to_numpy(self.model.named_variables())
        return values

    def logits(self, features: Features) -> np.ndarray:
        """Returns the model's logits, float32, without dropout.

        The logits of a position belong to its target, after the targets before it; with
        {"inputs": ids} of a language model to the id after it, as in other libraries. Ids
        are padded at their end to one of a few lengths where this changes nothing, so that a
        program serves many; a mixture of experts with a capacity gets the ids as they are.

        Args:
          features: the model's features by name: "targets" and, of an encoder, "inputs", each
            int [batch, length], 0 for padding; of a language model "targets" or "inputs"; or
            "images" [batch, rows, cols, channels], uint8 or floats that are normalised already.

        Returns:
          [batch, length, vocab], or [batch, classes] for images.
        """
        with self._in_use():
            return self._logits(features)

    def decode(
        self,
        prompts: Sequence[str | bytes],
        *,
        beam_size: int | None = None,
        num_outputs: int | None = None,
        alpha: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        decode_length: int | None = None,
        seed: int | None = None,
    ) -> list[Answer]:
        """Returns the answer to each prompt, as `mtfrun decode` prints it.

        Settings that are None have the values of the run's configuration.

        Args:
          prompts: texts, or bytes of any encoding.
          beam_size: beams of a beam search; 1 for greedy decoding or sampling.
          num_outputs: outputs for each prompt: at most `beam_size`, or any number of samples.
          alpha: exponent of a beam search's length penalty.
          temperature: 0 takes the likeliest token, 1 draws from the model's distribution.
          top_k: draws among this number of likeliest tokens; 0 for all.
          top_p: draws among the fewest likeliest tokens that have this probability.
          decode_length: maximum number of tokens of an output.
          seed: seed of the draws.
        """
        settings = {
            "beam_size": beam_size,
            "num_outputs": num_outputs,
            "alpha": alpha,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "decode_length": decode_length,
            "seed": seed,
        }
        texts, chosen = texts_of(prompts), numbers_of(settings)
        with self._in_use():
            decoding: Decoding = self._inference_with(Decoding, "decode", **chosen)
            return decoding(texts)

    def score(
        self, pairs: Sequence[tuple[str | bytes, str | bytes]], *, with_end: bool = True
    ) -> list[Score]:
        """Returns the likelihood of each target; the input of a language model may be "".

        `with_end`: whether the end of a target counts, as lm-evaluation-harness does not.
        """
        texts = pairs_of(pairs)
        with self._in_use():
            decoding: Decoding = self._inference_with(Decoding, "score")
            return decoding.scoring(texts, with_end=with_end)

    def classify(
        self, images: Iterable[np.ndarray | str | os.PathLike[str]], *, top_k: int | None = None
    ) -> list[Prediction]:
        """Returns the prediction for each image, as `mtfrun decode` prints it.

        Pixels are uint8 [rows, cols, channels] in the size that the model reads; files are brought
        to that size. `top_k` classes are returned for each; None for the configuration's.
        """
        listed, chosen = list_of(images, "images", '"photo.png"'), numbers_of({"top_k": top_k})
        with self._in_use():
            kind = Classification
            classification: Classification = self._inference_with(kind, "classify", **chosen)
            return classification(_pixels(image, classification.data) for image in listed)

    def evaluate(self, split: str | None = None) -> dict[str, float]:
        """Returns the metrics over a split, by default the configuration's; nothing is written.

        Of a test split every example is decoded, as by `mtfrun eval`.
        """
        check_optional_text(split, "split", "validation")
        with self._in_use():
            evaluation = self._evaluation_of(split)
            evaluation.check_split()
            return evaluation(self.step)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Has the devices inside, and raises the errors of the command."""
        with one_line_errors(), _devices if self.mesh.is_distributed else contextlib.nullcontext():
            yield

    def _changed_inference(self, kind: type[Inference], who: str, **settings: Any) -> Any:
        remedy = f"set Experiment.inference to @experiment.{kind.__name__}"
        return require(self.experiment.inference, kind, who, remedy).with_settings(settings)


def load(
    model_dir: str | None,
    settings: Settings,
    checkpoint: int | str | None,
    adapters: Mapping[str, str],
) -> Run:
    """See `mtfrun.load`."""
    with one_line_errors(), contextlib.ExitStack() as stack:
        directories = {
            name: stack.enter_context(registry.reading(name))
            for name in (model_dir, *adapters.values())
            if name is not None and is_url(name)
        }
        adapters = {name: directories.get(path, path) for name, path in adapters.items()}
        if model_dir is not None:
            model_dir = directories.get(model_dir, model_dir)
        run = None if model_dir is None else find_trained_run(model_dir)
        if run is None and adapters:
            raise InputError("adapters belong to the model of a run: give its model_dir")
        objects = build_run(run, settings)
        step = restore_model(objects, run, checkpoint)
        with_adapters = {
            name: _with_adapter(objects.experiment, run, settings, path)
            for name, path in adapters.items()
            if run is not None
        }
    return Run(objects, step, None if run is None else run.path, with_adapters)


def _with_adapter(base: Experiment, run: RunDirectory, settings: Settings, name: str) -> Run:
    """Returns the run of a second model, which shares the values of the base."""
    adapter = find_adapter(name, run)
    objects = build_run(run, settings, adapter=name, mesh=base.mesh)
    model = objects.experiment.model
    mtf.assign_paths(model)
    values = base.model.named_variables()
    for path, variable in model.named_variables().items():
        if path not in values:
            what = f"adapter {name} is for a model with {path}"
            raise InputError(f"{what}, which the run does not have: load {adapter.path}")
        variable.share(values[path])
    return Run(objects, objects.experiment.restore_adapters(adapter), adapter.path)


def train(model_dir: str, settings: Settings, choices: TrainChoices) -> Run:
    """See `mtfrun.train`."""
    if is_url(model_dir):
        with registry.writing(model_dir, downloads_all=choices.restart) as directory:
            return train(directory, settings, choices)
    run = RunDirectory(model_dir)
    command = ["mtfrun", "train", *settings.as_flags(), f"--model_dir={model_dir}"]
    with one_line_errors():
        preparation = prepare(settings)
        result = run_training(preparation, run, command, choices)
    if result.signal is not None:
        # Training has held it back until a checkpoint was saved.
        signal.raise_signal(result.signal)
    with one_line_errors():
        step = restore_model(preparation.objects, run, None)
    return Run(preparation.objects, step, run.path)


def _pixels(image: np.ndarray | str | os.PathLike[str], data: ImageData) -> np.ndarray:
    """Returns uint8 [rows, cols, channels] of the size that the model reads, else an InputError."""
    if isinstance(image, str | os.PathLike):
        return data.read_image(os.fspath(image))
    if not isinstance(image, np.ndarray):
        raise InputError(f"an image is an array of pixels or the path of a file: {quote(image)}")
    sizes = data.shapes(1)["images"].to_integer_list[1:]
    if image.dtype != np.uint8 or list(image.shape) != sizes:
        what = f"an image is {image.dtype} {list(image.shape)}"
        raise InputError(f"{what}: the model reads uint8 {sizes}")
    return image
