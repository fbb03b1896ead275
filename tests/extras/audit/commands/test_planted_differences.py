"""`audit bisect` names the first step and the cause of differences planted in trained runs."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import shutil
import types
from collections.abc import Callable
from typing import Any

import pytest

from mtfrun import mtf
from mtfrun.checkpoints.recorded_digests import VARIABLES
from mtfrun.cli.parser import parse_flags
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run_training import prepare
from mtfrun.rundir import commands
from tests.cli.command import ROOT, mtfrun, mtfrun_here, tiny_experiment
from tests.cli.forging import flip_bit

STEPS, SAVED = 6, 2
EPOCH = 44  # the steps that read every text
# The rate is zero in the first step.
UPDATES = (2, "variables")
LOSS = (1, "loss")
START = (0, "initial values")
NORM = "model/decoder_stack/blocks/0/self_attention/norm/scale"

# Two classes of a user's module: an action that changes a variable, and a normalisation.
MODULE = """
from mtfrun import mtf, training
from mtfrun.models import transformer


class Change(training.Action):
    def __init__(self, at=3):
        self.every_steps = at
        self.at = at

    def __call__(self, context):
        if context.step == self.at:
            variable = context.state.named_variables()["{path}"]
            mtf.assign(variable, variable * {factor})


class Norm(transformer.RMSNorm):
    def __call__(self, *arguments):
        return super().__call__(*arguments) * {scale}
"""
IMPORTS = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from mtfrun.models import transformer
import planted
"""
ADAM = ["--gin.Training.optimizer=@optim.Adam()", "--gin.Adam.learning_rate=@optim.Product()"]


@pytest.fixture(autouse=True)
def no_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets all runs be of the same mtfrun, whatever is edited while the tests run."""
    monkeypatch.setattr(commands, "_package_hashes", lambda: {"mtfrun.layers": "1" * 64})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """A function that trains with some flags in a new directory, or once for all tests."""

    def train(*flags: str, change: Callable[[pathlib.Path], object] | None = None) -> pathlib.Path:
        directory = tmp_path_factory.mktemp("run")
        arguments = tiny_experiment(directory)
        if change is not None:
            change(directory)
        _train(*arguments, *RUN, *flags, f"--model_dir={directory}/run")
        return directory / "run"

    cached = functools.cache(train)
    return lambda *flags, change=None: train(*flags, change=change) if change else cached(*flags)


RUN = [
    *(f"--gin.TRAIN_STEPS={STEPS}", f"--gin.CHECKPOINT_EVERY={SAVED}", "--gin.WARMUP_STEPS=1"),
    *("--gin.EVAL_EVERY=None", "--gin.Evaluation.max_batches=1", "--gin.EVAL_AT_START=False"),
]


def _train(*arguments: str) -> None:
    process = mtfrun_here("train", *arguments)
    assert process.returncode == 0, process.stderr.decode()


def _bisect(a: pathlib.Path, b: pathlib.Path, *flags: str) -> dict[str, Any]:
    process = mtfrun_here("audit", "bisect", str(a), str(b), "--json", *flags)
    assert process.returncode == 5, process.stderr.decode()
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def _check(result: dict[str, Any], found: tuple[int, str], kind: str, name: str | None) -> None:
    difference = result["difference"]
    assert (difference["step"], difference["what"]) == found
    assert result["likely_cause"] == kind
    if name is not None:
        assert result["causes"][0]["name"] == name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "found", "name"),
    [
        ("BATCH_SIZE=4", (1, "batch"), None),
        ("D_FF=64", START, None),
        ("MASTER_DTYPE='bfloat16'", START, None),
        # Slots and averages begin at 0.
        ("AVERAGE_DECAY=0.9", UPDATES, None),
        ("Training.optimizer=@optim.Sgd()", UPDATES, "experiment.Training.optimizer"),
        ("DROPOUT_RATE=0.1", LOSS, None),
        ("RMSNorm.epsilon=1e-5", LOSS, "transformer.RMSNorm.epsilon"),
        ("LEARNING_RATE=0.021", UPDATES, None),
        ("TrainOptions.clip_norm=0.1", UPDATES, "training.TrainOptions.clip_norm"),
    ],
)
def test_a_setting_is_named(
    flag: str, found: tuple[int, str], name: str | None, trained: Callable[..., pathlib.Path]
) -> None:
    more = ["--gin.Sgd.learning_rate=@optim.Product()"] if "Sgd" in flag else []
    result = _bisect(trained(), trained(f"--gin.{flag}", *more))
    _check(result, found, "configuration", name or flag.partition("=")[0])


@pytest.mark.slow
def test_a_constant_of_the_optimizer_is_named(trained: Callable[..., pathlib.Path]) -> None:
    a, b = trained(*ADAM), trained(*ADAM, "--gin.Adam.beta1=0.91")
    # Its slots are those of the first gradient, which have other factors.
    _check(_bisect(a, b), UPDATES, "configuration", "optim.Adam.beta1")


@pytest.mark.slow
def test_a_seed_is_named(trained: Callable[..., pathlib.Path]) -> None:
    result = _bisect(trained(), trained("--gin.SEED=1"))
    _check(result, START, "randomness (seed)", "seed")


def _replace(old: str, new: str, number: int = 1) -> Callable[[pathlib.Path], None]:
    def change(directory: pathlib.Path) -> None:
        path = directory / "train.txt"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, number))

    return change


def _add_a_text(directory: pathlib.Path) -> None:
    path = directory / "train.txt"
    path.write_text(path.read_text() + "\nThe end")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        _replace("line 7: the quick", "line 7: the quack"),
        _replace("line 150: the quick brown fox\n", ""),
        _replace(
            "line 299: the quick brown fox",
            "line 299: the quick brown fo\N{LATIN SMALL LETTER X WITH DOT ABOVE}",
        ),
        _add_a_text,
    ],
    ids=["letter", "line", "last", "more"],
)
def test_other_data_are_named_at_the_first_batch_that_has_them(
    change: Callable[[pathlib.Path], None], trained: Callable[..., pathlib.Path]
) -> None:
    epoch = [f"--gin.TRAIN_STEPS={EPOCH}", "--gin.CHECKPOINT_EVERY=None"]
    a, b = trained(*epoch), trained(*epoch, change=change)
    batches = enumerate(zip(_batches(a), _batches(b), strict=True), 1)
    first = next(step for step, (one, other) in batches if one != other)
    _check(_bisect(a, b), (first, "batch"), "data", None)


def _batches(run: pathlib.Path) -> list[list[bytes]]:
    """Returns the arrays of every step, without the ledger."""
    settings = Settings.of_flags(
        parse_flags(["train", f"--gin_file={run}/config.gin", f"--model_dir={run}"])
    )
    training = prepare(settings).training
    with contextlib.closing(training.experiment.train_infeed(training.batch_size)) as infeed:
        batches = [infeed.next(1) for _ in range(EPOCH)]
    return [
        [mtf.to_numpy(batch[name]).tobytes() for name in sorted(batch)]
        for batch in batches
        if batch is not None
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "path", "place", "bit"),
    [(2, NORM, 0, 0), (4, "model/embedding/table", 100 * 16, 22), (4, "optimizer/", 1, 0)],
)
def test_a_bit_of_a_checkpoint_is_named(
    step: int,
    path: str,
    place: int,
    bit: int,
    trained: Callable[..., pathlib.Path],
    tmp_path: pathlib.Path,
) -> None:
    a, b = trained(), tmp_path / "run"
    shutil.copytree(a, b)
    name = _flip_bit(b, step, path, place, bit)
    _train(f"--gin_file={b}/config.gin", f"--model_dir={b}")
    result = _bisect(a, b)
    _check(result, (step, "variables"), "restored values", None)
    assert result["difference"]["variables"] == [name]


def _flip_bit(directory: pathlib.Path, step: int, prefix: str, place: int, bit: int) -> str:
    """Changes a value of a checkpoint, with its digest, and removes the later ones."""
    path = flip_bit(directory, step, prefix, place, bit)
    (directory / VARIABLES).unlink()
    for file in (directory / "checkpoints").glob("ckpt-*"):
        if int(file.name.split("-")[1].split(".")[0]) != step:
            file.unlink()
    return path


@pytest.mark.slow
def test_a_value_of_a_checkpoint_is_found_by_computing_its_step_again(
    trained: Callable[..., pathlib.Path], tmp_path: pathlib.Path
) -> None:
    a, b = trained(), tmp_path / "run"
    shutil.copytree(a, b)
    _flip_bit(b, SAVED, NORM, 3, 20)
    _train(f"--gin_file={b}/config.gin", f"--model_dir={b}")
    recomputed = _bisect(a, b, "--recompute")["recomputed"]
    assert (recomputed["step"], recomputed["at_fault"]) == (SAVED + 1, None)
    assert " at d_model 3: " in recomputed["variables"][NORM]


@pytest.mark.slow
def test_a_layer_that_computes_something_else_is_found(
    trained: Callable[..., pathlib.Path],
) -> None:
    other = trained("--gin.RMSNorm.epsilon=0.1")
    recomputed = _bisect(trained(), other, "--recompute")["recomputed"]
    assert (recomputed["step"], recomputed["variables"]) == (1, {})
    fault = recomputed["at_fault"]
    path = NORM.removeprefix("model/").removesuffix("/scale")
    assert (fault["path"], fault["name"], fault["what"]) == (path, "RMSNorm", "output")
    assert "normalization.py" in fault["line"]
    assert fault["deviation"]["place"].startswith("batch ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "what", "name", "line"),
    [
        (["--gin.LEARNING_RATE=0.03"], "update", "Adafactor", "value = value * factor(step)"),
        (["--gin.TrainOptions.clip_norm=0.1"], "clipping", "gradients", ""),
        (ADAM, "update", "Adafactor", ""),
    ],
    ids=["rate", "clipping", "optimizer"],
)
def test_an_update_that_computes_something_else_is_found(
    flags: list[str], what: str, name: str, line: str, trained: Callable[..., pathlib.Path]
) -> None:
    recomputed = _bisect(trained(), trained(*flags), "--recompute")["recomputed"]
    assert recomputed["step"] == SAVED + 1
    fault = recomputed["at_fault"]
    assert (fault["path"], fault["name"], fault["what"]) == ("", name, what)
    assert line in fault["line"]


@pytest.mark.slow
def test_a_gradient_that_differs_alone_is_found(trained: Callable[..., pathlib.Path]) -> None:
    base = trained()

    def adapted(alpha: int) -> pathlib.Path:
        run = base / f"adapters/alpha{alpha}"
        lora = ["--gin_file=adapters/lora.gin", f"--gin.LORA_ALPHA={alpha}"]
        start = f"--gin.INIT_CHECKPOINT='{base}'"
        _train(f"--gin_file={base}/config.gin", *lora, start, f"--model_dir={run}")
        return run

    recomputed = _bisect(adapted(16), adapted(17), "--recompute")["recomputed"]
    fault = recomputed["at_fault"]
    assert (recomputed["step"], fault["what"]) == (1, "gradient")
    assert fault["path"].endswith("/wo/kernel/lora_b")


@pytest.mark.slow
def test_another_initial_checkpoint_is_named(trained: Callable[..., pathlib.Path]) -> None:
    starts = [trained() / f"checkpoints/ckpt-{step}" for step in (2, 4)]
    a, b = (trained(f"--gin.INIT_CHECKPOINT='{start}'") for start in starts)
    _check(_bisect(a, b), START, "initial values", "INIT_CHECKPOINT")


@pytest.fixture(scope="module")
def with_module(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., pathlib.Path]:
    """A function that trains in a process of its own, with a user's module if there are gin lines.

    Such a process compiles programs otherwise than tests do, so that bits differ from theirs.
    """

    @functools.cache
    def train(line: str, *, factor: str = "1.0", scale: str = "1.0") -> pathlib.Path:
        directory = tmp_path_factory.mktemp("run")
        text = MODULE.format(factor=factor, scale=scale, path=NORM)
        (directory / "planted.py").write_text(text)
        (directory / "planted.gin").write_text(IMPORTS + line + "\n" if line else "")
        flags = [*tiny_experiment(directory), *RUN, f"--gin_file={directory}/planted.gin"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{directory}:{ROOT}")
            process = mtfrun("train", *flags, f"--model_dir={directory}/run")
        assert process.returncode == 0, process.stderr.decode()
        return directory / "run"

    return train


ACTION = "experiment.Training.actions = [@planted.Change()]"
LAYER = """
transformer.StackTransforms.layer = [
    @planted.Norm, @transformer.CallLayer, @transformer.SublayerDropout, @transformer.Residual]
"""


@pytest.mark.slow
def test_an_action_that_writes_a_variable_is_named(
    with_module: Callable[..., pathlib.Path],
) -> None:
    result = _bisect(with_module(""), with_module(ACTION, factor="1.01"))
    _check(result, (4, "loss"), "actions", "experiment.Training.actions")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "change", "found"),
    [(ACTION, {"factor": "1.01"}, (4, "loss")), (LAYER, {"scale": "1.001"}, LOSS)],
)
def test_a_change_in_a_users_module_is_named(
    line: str,
    change: dict[str, str],
    found: tuple[int, str],
    with_module: Callable[..., pathlib.Path],
) -> None:
    a, b = with_module(line), with_module(line, **change)
    _check(_bisect(a, b), found, "code", "planted")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "value", "kind", "name"),
    [
        ((commands, "_processor"), "another processor", "machine", "processor"),
        ((os, "sched_getaffinity"), range(17), "number of threads", "threads"),
    ],
)
def test_a_machine_that_rounds_otherwise_is_named(
    target: tuple[types.ModuleType, str],
    value: Any,
    kind: str,
    name: str,
    trained: Callable[..., pathlib.Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
) -> None:
    a, b = trained(), tmp_path / "run"
    shutil.copytree(a, b)
    for file in (b / "checkpoints").glob("ckpt-*"):
        if not file.name.startswith(f"ckpt-{SAVED}."):
            file.unlink()
    rsqrt = mtf.rsqrt
    monkeypatch.setattr(mtf, "rsqrt", lambda x: rsqrt(x) * (1 + 1e-6))
    monkeypatch.setattr(*target, lambda *_: value)
    _train(f"--gin_file={a}/config.gin", f"--model_dir={b}")
    _check(_bisect(a, b), (SAVED + 1, "loss"), kind, name)
