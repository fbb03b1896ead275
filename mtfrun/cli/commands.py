"""The commands, once their flags are known. Importing this imports TensorFlow."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from mtfrun.cli import config, report
from mtfrun.cli.build import ROOTS, build
from mtfrun.cli.continuous import steps_as_they_appear
from mtfrun.cli.decoding_progress import decoding_progress
from mtfrun.cli.errors import UsageError
from mtfrun.cli.gin_checks import check_taken
from mtfrun.cli.image_decoding import check_image_flags, classify
from mtfrun.cli.prompts import prompt_bytes, read_pairs, read_prompts
from mtfrun.cli.routing_table import routing_table
from mtfrun.cli.tasks import Classification, Decoding, Experiment, Scoring, Training
from mtfrun.rundir import RunDirectory, RunDirError, atomic_open


def train(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Trains, or with --dry_run says what would be trained."""
    bindings = _parse(flags, flags.gin_file)
    experiment, _, _, evaluation = build()
    training = config.configured(Training, experiment, evaluation)
    check_taken(bindings, config.operative_config_text())
    if flags.dry_run:
        print(report.describe(training, flags.program_dump))
        return 0
    for warning in report.misspelt_rules(experiment.mesh):
        print(f"mtfrun: warning: {warning}", file=sys.stderr)
    run = RunDirectory(flags.model_dir)
    run.prepare()
    with run.lock(), _recorded(run, command):
        texts = {
            "operative_config": config.as_markdown(config.operative_config_text()),
            "config": config.as_markdown(config.config_text()),
            "command": config.as_markdown(" ".join(command)),
        }
        result = training.run(run, texts=texts, profile=flags.profile)
    if result.signal is not None:
        print(f"mtfrun: stopped and saved at step {result.step}", file=sys.stderr)
        return 128 + result.signal
    return 0


def evaluate(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Evaluates checkpoints and prints one JSON object each."""
    run = _trained_run(flags)
    bindings = _parse(flags, flags.gin_file or [_own_config(run)])
    experiment, _, _, evaluation = build()
    check_taken(bindings, config.operative_config_text())
    run.record_command(command)
    wanted: Iterable[int | None] = [None]
    if flags.continuous:
        wanted = steps_as_they_appear(run)
    elif flags.checkpoint == "all":
        wanted = list(run.checkpoints().steps())
    elif flags.checkpoint != "latest":
        wanted = [int(flags.checkpoint)]
    with run.summaries("eval") as summaries:
        for number in wanted:
            step = experiment.restore(run, number)
            metrics = evaluation(step, summaries)
            for line in routing_table(metrics):
                print(line, file=sys.stderr)
            print(json.dumps({"step": step, **metrics}), flush=True)
    return 0


def decode(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Continues or answers prompts, or classifies images, and writes one line each, in order."""
    run = _trained_run(flags)
    bindings = _parse(flags, flags.gin_file or [_own_config(run)])
    experiment, decoding, classification, _ = build()
    check_taken(bindings, config.operative_config_text())
    if decoding is None:
        assert classification is not None  # a model is of text or of images
        return _decode_images(flags, run, command, classification)
    prompts = [prompt_bytes(text) for text in flags.prompt]
    if flags.input is not None:
        prompts = read_prompts(flags.input)
    given = {name: getattr(flags, name) for name in _DECODING_FLAGS}
    given = {name: value for name, value in given.items() if value is not None}
    decoding = dataclasses.replace(decoding, **given)
    run.record_command(command)
    step = _restore(flags, run, experiment)
    if flags.interactive:
        _converse(decoding)
        return 0
    with _output(flags.output) as file:
        for answer in decoding(prompts, decoding_progress(len(prompts))):
            if flags.format == "text":
                file.write(_in_one_line(answer.output) + "\n")
                continue
            outputs = [output._asdict() for output in answer.outputs]
            fields = {**answer._asdict(), "outputs": outputs, "step": step}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    return 0


def _decode_images(
    flags: argparse.Namespace,
    run: RunDirectory,
    command: Sequence[str],
    classification: Classification,
) -> int:
    """Classifies images and writes one line each, in order, once all of them have been read."""
    check_image_flags(flags)
    if flags.top_k is not None:
        classification = dataclasses.replace(classification, top_k=flags.top_k)
    run.record_command(command)
    step = _restore(flags, run, classification.experiment)
    with _output(flags.output) as file:
        for fields in classify(flags.input, classification):
            line = json.dumps({**fields, "step": step}, ensure_ascii=False)
            file.write((str(fields["label"]) if flags.format == "text" else line) + "\n")
    return 0


def score(flags: argparse.Namespace, command: Sequence[str]) -> int:
    """Scores pairs of an input and a target and writes one JSON object each, in order."""
    pairs = read_pairs(flags.input)
    run = _trained_run(flags)
    bindings = _parse(flags, flags.gin_file or [_own_config(run)])
    experiment, decoding, _, _ = build()
    if decoding is None:
        raise UsageError(f"{run.path} is a classifier of images: it reads and makes no text")
    check_taken(bindings, config.operative_config_text())
    run.record_command(command)
    step = _restore(flags, run, experiment)
    scoring = Scoring(experiment, decoding.batch_size, decoding.max_length)
    with _output(flags.output) as file:
        for (inputs, target), found in zip(pairs, scoring(pairs), strict=True):
            texts = {
                "input": inputs.decode("utf-8", "replace"),
                "target": target.decode("utf-8", "replace"),
            }
            fields = {**texts, **found._asdict(), "step": step}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
    return 0


COMMANDS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "decode": decode,
    "score": score,
}
# Flags that override a field of Decoding.
_DECODING_FLAGS = (
    *("beam_size", "num_outputs", "alpha", "temperature", "top_k", "top_p"),
    *("decode_length", "seed"),
)


def _parse(flags: argparse.Namespace, files: Sequence[str]) -> list:
    return config.parse(files, flags.bindings, search_paths=flags.gin_search_paths, roots=ROOTS)


def _restore(flags: argparse.Namespace, run: RunDirectory, experiment: Experiment) -> int:
    """Gives the model the variables of --checkpoint and returns its step."""
    return experiment.restore(run, None if flags.checkpoint == "latest" else int(flags.checkpoint))


def _converse(decoding: Decoding) -> None:
    """Answers lines of standard input until it ends; the programs stay compiled."""
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.buffer.readline()
        if not line:
            return
        (answer,) = decoding([line.removesuffix(b"\n").removesuffix(b"\r")])
        for output in answer.outputs:
            print(_in_one_line(output.text), flush=True)


def _in_one_line(text: str) -> str:
    """Returns a text with backslashes and line ends written as in a string of C."""
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _trained_run(flags: argparse.Namespace) -> RunDirectory:
    """Returns the run of --model_dir, which has a checkpoint."""
    run = RunDirectory(flags.model_dir)
    run.require()
    if not run.checkpoints().steps():
        raise UsageError(
            f"no checkpoint in {run.path}: make one with `mtfrun train --model_dir={run.path}`, "
            "or check the name"
        )
    return run


def _own_config(run: RunDirectory) -> str:
    run.read_config()  # its error names the remedy
    return run.config_path


@contextlib.contextmanager
def _recorded(run: RunDirectory, command: Sequence[str]) -> Iterator[None]:
    """Writes down configuration and command; puts the former configuration back on an error.

    A configuration that does not fit the run's checkpoints must not replace the one that does.
    """
    try:
        former = run.read_config()
    except RunDirError:
        former = None
    run.write_config(config.config_text())
    run.write_operative_config(config.operative_config_text())
    run.record_command(command)
    try:
        yield
    except RunDirError:
        if former is not None:
            run.write_config(former)
        raise


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[TextIO]:
    """Opens --output, which appears when it is whole, or standard output."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
    else:
        with atomic_open(path) as file:
            yield file
