"""The command `data vocab`, and runs with its vocabulary."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.data import SentencePieceVocabulary
from tests.cli.command import TINY, TWO_STEPS, error_line, mtfrun_here, succeeded, tiny_experiment

USE_VOCABULARY = "--gin.VOCABULARY=@data.SentencePieceVocabulary()"


def _experiment(directory: pathlib.Path) -> list[str]:
    """Writes a text of 300 lines and returns the flags of a tiny language model on it."""
    text = directory / "text.txt"
    text.write_text("".join(f"line {i}: the quick brown fox\n" for i in range(300)))
    return [
        "--gin_file=defaults.gin",
        "--gin_file=models/lm_tiny.gin",
        *TINY,
        *TWO_STEPS,
        "--gin.Task.source=@data.TextFiles()",
        f"--gin.TextFiles.patterns='{text}'",
    ]


def _file(path: pathlib.Path) -> str:
    return f"--gin.SentencePieceVocabulary.sentencepiece_model_file='{path}'"


def _train(experiment: list[str], output: pathlib.Path, *flags: str, size: int = 300) -> bytes:
    """Trains a vocabulary and returns the line on standard output."""
    process = mtfrun_here(
        "data", "vocab", *experiment, f"--size={size}", f"--output={output}", *flags
    )
    assert process.returncode == 0, process.stderr.decode()
    return process.stdout


def test_the_same_texts_give_the_same_file(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "new/vocab.model"
    # The configuration names the file before it exists.
    experiment = [*_experiment(tmp_path), USE_VOCABULARY, _file(model)]
    line = _train(experiment, model).decode()
    assert line.startswith(f"{model}: 300 pieces, ")
    assert line.endswith(" characters a token on 0.0 MB of text\n")
    first = model.read_bytes()
    _train(experiment, model)
    assert model.read_bytes() == first
    assert [path.name for path in model.parent.iterdir()] == ["vocab.model"]
    assert SentencePieceVocabulary(str(model)).unpadded_size == 400


def test_a_run_refuses_another_vocabulary(run_copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = tiny_experiment(tmp_path)  # whose texts are those of the run
    run = f"--model_dir={run_copy}"
    model = tmp_path / "vocab.model"
    _train(experiment, model)
    other = [*experiment, run, USE_VOCABULARY, _file(model)]
    for command in (
        ["train", *other, "--gin.TRAIN_STEPS=3", "--accept_changes"],
        ["eval", *other],
        ["decode", *other, "--prompt=the"],
    ):
        line = error_line(mtfrun_here(*command))
        assert "ckpt-2 was trained with another vocabulary than " in line
        assert f"SentencePieceVocabulary('{model}', extra_ids=100)" in line


@pytest.mark.slow
def test_a_run_asks_about_other_texts(run_copy: pathlib.Path, tmp_path: pathlib.Path) -> None:
    experiment = tiny_experiment(tmp_path)  # whose texts are those of the run
    run = f"--model_dir={run_copy}"
    with (tmp_path / "train.txt").open("a") as text:
        text.write("more text\n" * 30)
    command = ["train", *experiment, run, "--gin.TRAIN_STEPS=3"]
    assert "the data have changed since ckpt-2" in error_line(mtfrun_here(*command))
    succeeded(mtfrun_here(*command, "--accept_changes"))
    succeeded(mtfrun_here(*command, "--gin.TRAIN_STEPS=4"))


def test_the_same_texts_with_settings_of_t5(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "t5.model"
    flags = ["--normalization=nmt_nfkc", "--no_byte_fallback", "--features=targets"]
    _train(_experiment(tmp_path), model, *flags, size=40)
    vocabulary = SentencePieceVocabulary(str(model))
    assert vocabulary.decode(vocabulary.encode("the\n\nquick")) == "the quick"
    assert vocabulary.encode("\u05d0")[-1] == vocabulary.unknown_id


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size=90000"], "the text is too small for 90000 pieces: choose --size="),
        (["--size=300", "--split=tset"], 'has no split "tset"; it has train, validation'),
        (
            ["--size=300", "--features=inputs"],
            "LanguageModelData has no texts of inputs: choose among targets",
        ),
        (["--size=300", "--normalization=nfd"], "normalization is 'nfd': it must be 'identity' or"),
        (["--size=300", "--max_bytes=9"], "max_bytes is 9: it must be an integer of at least 4096"),
        ([], "data vocab needs the number of pieces: --size=8000"),
        (["--size=300", "--model_dir=x"], "data vocab reads no run: leave --model_dir out"),
        (["--size=300", "--output="], "--output needs a name"),
        (["--size=300", "--output=/proc/vocab.model"], "cannot write /proc/vocab.model"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(
    tmp_path: pathlib.Path, flags: list[str], message: str
) -> None:
    output = tmp_path / "vocab.model"
    process = mtfrun_here("data", "vocab", *_experiment(tmp_path), f"--output={output}", *flags)
    assert process.returncode == 2, process.stderr.decode()
    # Where training fails, a line before says that the texts were read.
    assert message in process.stderr.decode().splitlines()[-1]
    assert not output.exists()


def test_data_without_texts_is_refused(tmp_path: pathlib.Path) -> None:
    process = mtfrun_here(
        *("data", "vocab", "--gin_file=runs/digits.gin"),
        *("--size=300", f"--output={tmp_path / 'vocab.model'}"),
    )
    assert "ImageData has no texts to train a vocabulary on" in error_line(process)
