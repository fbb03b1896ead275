"""Fine-tuning of a checkpoint that Mesh TensorFlow wrote, with a SentencePiece vocabulary."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.data import SentencePieceVocabulary
from tests.cli.command import ROOT, error_line, mtfrun_here, succeeded

# As T5 1.1, with 128 rows of vocabulary: for 100 pieces and 28 extra ids.
CHECKPOINT = ROOT / "tests/oracle/old_runs/bi_gated/model.ckpt-3"
VARIABLES = 52
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags that describe the model, its pairs of texts, and a vocabulary of their texts."""
    directory = tmp_path_factory.mktemp("fine_tuning")
    pairs = directory / "pairs.tsv"
    numbers = range(100, 1000)
    pairs.write_text("".join(f"{n}\t{' '.join(DIGITS[int(d)] for d in str(n))}\n" for n in numbers))
    flags = [
        "--gin_file=defaults.gin",
        "--gin_file=models/t5.1.1.tiny.gin",
        "--gin_file=data/tsv_pairs.gin",
        "--gin_file=data/sentencepiece.gin",
        f"--gin.TSV_FILES='{pairs}'",
        f"--gin.VOCABULARY_FILE='{directory / 'pairs.model'}'",
        "--gin.EXTRA_IDS=28",
        *("--gin.D_MODEL=32", "--gin.D_FF=48", "--gin.D_KV=8", "--gin.NUM_HEADS=4"),
        *("--gin.INPUTS_LENGTH=32", "--gin.TARGETS_LENGTH=32", "--gin.BATCH_SIZE=8"),
        *("--gin.TRAIN_STEPS=2", "--gin.ITERATIONS_PER_LOOP=1", "--gin.LOG_EVERY=1"),
        f"--gin.INIT_CHECKPOINT='{CHECKPOINT}'",
    ]
    settings = ["--size=100", "--normalization=nmt_nfkc", "--no_byte_fallback"]
    process = mtfrun_here(
        "vocab", "train", *flags, *settings, f"--output={directory / 'pairs.model'}"
    )
    assert process.returncode == 0, process.stderr.decode()
    assert SentencePieceVocabulary(str(directory / "pairs.model"), extra_ids=28).size == 128
    return flags


@pytest.mark.slow
def test_a_checkpoint_is_fine_tuned_and_answers(flags: list[str], tmp_path: pathlib.Path) -> None:
    run = f"--model_dir={tmp_path / 'run'}"
    process = mtfrun_here("train", *flags, run)
    assert process.returncode == 0, process.stderr.decode()
    assert f"initialised with {VARIABLES} variables from {CHECKPOINT}" in process.stderr.decode()
    (text,) = succeeded(mtfrun_here("decode", run, "--prompt=1"))
    (text_and_mark,) = succeeded(mtfrun_here("decode", run, "--prompt=1 <extra_id_0>"))
    assert text_and_mark["prompt_tokens"] == text["prompt_tokens"] + 1
    (evaluated,) = succeeded(mtfrun_here("eval", run))
    assert evaluated["bits_per_byte"] > 0


def test_a_vocabulary_of_another_size_does_not_fit_the_checkpoint(flags: list[str]) -> None:
    line = error_line(mtfrun_here("decode", *flags, "--gin.EXTRA_IDS=29", "--prompt=123"))
    assert "is incompatible with the model's variables: it has other sizes for" in line
