"""Checkpoints that Mesh TensorFlow wrote are used and fine-tuned."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.checkpoints.names import is_bookkeeping, sources_of
from mtfrun.data import SentencePieceVocabulary
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.oracle.packed import unpack
from tests.oracle.reference_cases import reference_cases

CASE = reference_cases("transformer")["t5_1_0"]
CONFIG = """
include "defaults.gin"
include "models/t5.1.0.gin"

from __gin__ import dynamic_registration
from mtfrun import data
from mtfrun import experiment
from mtfrun.models import transformer
from tests.cli import ids_vocabulary

D_MODEL = 16
D_FF = 24
D_KV = 6
NUM_HEADS = 2
NUM_LAYERS = 2
SEQUENCE_LENGTH = 16
BATCH_SIZE = 2
transformer.RelativePositionBias.num_buckets = 8

ids_vocabulary.IdsVocabulary.size = 128
experiment.Experiment.data = @data.SequenceToSequenceData()
VOCABULARY = @ids_vocabulary.IdsVocabulary()
data.SequenceToSequenceData.task = %TASK
data.SequenceToSequenceData.inputs_length = 7
data.SequenceToSequenceData.targets_length = 7
data.Task.source = @data.Tsv()
data.Tsv.patterns = %PAIRS
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags that describe the model and name its checkpoint."""
    folder = tmp_path_factory.mktemp("foreign")
    pairs = folder / "pairs.tsv"
    pairs.write_text("".join(f"{i}\t{t}\n" for i, t in zip(_inputs(), _targets(), strict=True)))
    (folder / "model.gin").write_text(CONFIG + f"PAIRS = {{'validation': '{pairs}'}}\n")
    checkpoint = unpack("checkpoints") / CASE.hparams["checkpoint"] / "model.ckpt-0"
    return [f"--gin_file={folder}/model.gin", f"--gin.INIT_CHECKPOINT='{checkpoint}'"]


def _inputs() -> list[str]:
    """Returns the texts of the inputs, without their ends."""
    return [" ".join(str(i) for i in row if i > 1) for row in CASE.arrays["in/inputs"]]


def _targets() -> list[str]:
    return [" ".join(str(i) for i in row if i > 1) for row in CASE.arrays["in/targets"]]


def test_decodes_are_those_of_mesh_tensorflow(flags: list[str]) -> None:
    prompts = [f"--prompt={text}" for text in _inputs()]
    answers = succeeded(mtfrun_here("decode", *flags, *prompts))
    expected = CASE.arrays["out/greedy_ids"].tolist()
    assert [[int(i) for i in answer["output"].split()] for answer in answers] == expected
    assert [answer["step"] for answer in answers] == [0, 0]


def test_a_model_without_a_checkpoint_is_refused(flags: list[str]) -> None:
    assert "there is no model" in error_line(mtfrun_here("decode", flags[0], "--prompt=3"))


def test_a_checkpoint_of_another_model_is_refused(flags: list[str]) -> None:
    line = error_line(mtfrun_here("decode", *flags, "--prompt=3", "--gin.D_FF=32"))
    assert "is incompatible with the model's variables: it has other sizes for" in line


def test_the_flag_of_a_step_needs_a_run(flags: list[str]) -> None:
    line = error_line(mtfrun_here("eval", *flags, "--checkpoint=3"))
    assert "--checkpoint and --adapter are about a run: give its --model_dir" in line


# As T5 1.1, with 128 rows of vocabulary: for 100 pieces and 28 extra ids.
CHECKPOINT = unpack("old_runs") / "bi_gated/model.ckpt-3"
VARIABLES = 52
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def tuning_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags that describe the model, its pairs of texts, and a vocabulary of their texts."""
    directory = tmp_path_factory.mktemp("fine_tuning")
    pairs = directory / "pairs.tsv"
    numbers = range(100, 1000)
    pairs.write_text("".join(f"{n}\t{' '.join(DIGITS[int(d)] for d in str(n))}\n" for n in numbers))
    tuning_flags = [
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
        "data", "vocab", *tuning_flags, *settings, f"--output={directory / 'pairs.model'}"
    )
    assert process.returncode == 0, process.stderr.decode()
    assert SentencePieceVocabulary(str(directory / "pairs.model"), extra_ids=28).size == 128
    return tuning_flags


@pytest.mark.slow
def test_a_checkpoint_is_fine_tuned_and_answers(
    tuning_flags: list[str], tmp_path: pathlib.Path
) -> None:
    run = f"--model_dir={tmp_path / 'run'}"
    process = mtfrun_here("train", *tuning_flags, run)
    assert process.returncode == 0, process.stderr.decode()
    assert f"initialised with {VARIABLES} variables from {CHECKPOINT}" in process.stderr.decode()
    (text,) = succeeded(mtfrun_here("decode", run, "--prompt=1"))
    (text_and_mark,) = succeeded(mtfrun_here("decode", run, "--prompt=1 <extra_id_0>"))
    assert text_and_mark["prompt_tokens"] == text["prompt_tokens"] + 1
    (evaluated,) = succeeded(mtfrun_here("eval", run))
    assert evaluated["bits_per_byte"] > 0


SLOTS = ["_slot_v", "_slot_vr", "_slot_vc", "_slot_m", "/adam_m", "/adam_v", "_momentum_v"]


@pytest.mark.parametrize("name", [f"shared/embedding{end}" for end in SLOTS])
def test_an_optimizers_slots_are_no_parameters(name: str) -> None:
    assert is_bookkeeping(name)


@pytest.mark.parametrize("name", ["adam_m", "x/adam_w", "momentum_v/kernel", "x_slot_v/kernel"])
def test_a_name_that_only_resembles_a_slot_is_a_parameter(name: str) -> None:
    assert not is_bookkeeping(name)


def test_a_sublayers_number_comes_from_its_place_in_the_block() -> None:
    paths = [
        f"decoder_stack/blocks/{block}/{name}/norm/scale"
        for block in range(2)
        for name in ("self_attention", "encoder_decoder_attention", "feed_forward")
    ]
    sources = sources_of(paths[4], paths)
    assert any("block_001/layer_001" in source.pattern for source in sources)
    t2t = "transformer/decoder/layer_norm_scale"
    assert [source.entry for source in sources if source.pattern == t2t] == ["4"]
