"""The classes of docs/your_own_classes.md, which are not in the package, by the real command."""

from __future__ import annotations

import ast
import json
import math
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.cli.parser import all_commands
from tests.cli.command import error_line, mtfrun_here, succeeded
from tests.experiment.own_classes import Signum
from tests.layouts import FLOAT32_MODEL_TOLERANCE
from tests.optim.updates import make_variables, run_updates
from tests.training.toy_run import curve

FOLDER = pathlib.Path(__file__).parent
MODULE = (FOLDER / "own_classes.py").read_text(encoding="utf-8")
PAGE = (FOLDER.parents[1] / "docs/your_own_classes.md").read_text(encoding="utf-8")
# The blocks of the page by the file that they belong to.
BLOCKS = {
    name: re.compile(rf'```\w+ title="{re.escape(name)}"\n(.*?)```', re.S)
    for name in ("own.gin", "own_adapter.gin", "sums.gin", "own_classes.py")
}
# From "A layer" on the model of own.gin is a Transformer.
CONFIG = "\n".join(BLOCKS["own.gin"].findall(PAGE.partition("## A layer")[0]))
TRANSFORMER_CONFIG = "\n".join(BLOCKS["own.gin"].findall(PAGE))
ALLOWED = "--gin_allow_imports=own_classes"
UNMEASURED = "--gin_param=Evaluation.evaluators = []"
TINY_SIZES = [
    "--gin.NUM_LAYERS=1",
    "--gin.D_MODEL=16",
    "--gin.D_FF=32",
    "--gin.NUM_HEADS=4",
    "--gin.D_KV=4",
    "--gin.NUM_EXPERTS=4",
    "--gin.GROUP_SIZE=32",
]
CLASSES = [node for node in ast.parse(MODULE).body if isinstance(node, ast.ClassDef)]


def _lines(node: ast.ClassDef) -> list[str]:
    """Returns the source of a class, its decorators included."""
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return MODULE.splitlines()[start - 1 : node.end_lineno]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pathlib.Path]:
    """Returns a directory with the gin files of the page; its module can be imported."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own.gin").write_text(CONFIG)
    (folder / "transformer.gin").write_text(TRANSFORMER_CONFIG)
    for name in ("own_adapter.gin", "sums.gin"):
        (folder / name).write_text(BLOCKS[name].findall(PAGE)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield folder


def _trained(folder: pathlib.Path, gin_file: str, *flags: str) -> pathlib.Path:
    """Returns the directory of a run."""
    run = folder / f"run {len(list(folder.glob('run *')))}"
    flags = (f"--gin_file={folder / gin_file}", f"--model_dir={run}", *flags)
    process = mtfrun_here("train", *flags)
    assert process.returncode == 0, process.stderr.decode()
    assert "eval step " in process.stderr.decode()
    return run


@pytest.fixture(scope="module")
def run(folder: pathlib.Path) -> pathlib.Path:
    """Returns the directory of a run of the page's model."""
    return _trained(folder, "own.gin")


@pytest.mark.parametrize("node", CLASSES, ids=lambda node: node.name)
def test_a_class_is_short_and_on_the_page_as_it_is(node: ast.ClassDef) -> None:
    lines = _lines(node)
    assert len(lines) < 40
    assert "\n".join([*lines, ""]) in BLOCKS["own_classes.py"].findall(PAGE)


def test_the_page_shows_the_module_and_nothing_else() -> None:
    first, *classes = BLOCKS["own_classes.py"].findall(PAGE)
    assert first in MODULE and "import" in first
    assert len(classes) == len(CLASSES)


def test_the_model_is_evaluated_and_measured(run: pathlib.Path) -> None:
    (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={run}", ALLOWED))
    assert metrics["step"] == 20 and metrics["loss"] < 0.6 * math.log(384)
    assert 0.0 <= metrics["digits"] <= 1.0


@pytest.mark.slow
def test_the_scores_of_the_model_add_up_to_its_loss(run: pathlib.Path) -> None:
    (metrics,) = succeeded(mtfrun_here("eval", f"--model_dir={run}", ALLOWED))
    # The loss is the sum of the scores of all numbers, per token.
    numbers = run.parent / "numbers.jsonl"
    numbers.write_text("".join(f'{{"target": "{number}"}}\n' for number in range(100)))
    scores = succeeded(mtfrun_here("score", f"--model_dir={run}", ALLOWED, f"--input={numbers}"))
    tokens = sum(score["tokens"] for score in scores)
    assert tokens == 10 * 2 + 90 * 3
    nats = -sum(score["log_likelihood"] for score in scores)
    np.testing.assert_allclose(metrics["loss"], nats / tokens, rtol=FLOAT32_MODEL_TOLERANCE)


@pytest.mark.slow
def test_the_model_decodes_greedily(run: pathlib.Path) -> None:
    flags = [f"--model_dir={run}", ALLOWED, "--prompt=1", "--prompt=23", "--decode_length=3"]
    answers = succeeded(mtfrun_here("decode", *flags))
    assert [answer["prompt"] for answer in answers] == ["1", "23"]
    assert all(answer["finished"] or answer["output_tokens"] == 3 for answer in answers)
    assert all(len(answer["outputs"]) == 1 for answer in answers)


@pytest.mark.skipif("data show" not in all_commands(), reason="the extra data_viewer is deleted")
def test_the_source_of_texts_is_shown(folder: pathlib.Path) -> None:
    shown = mtfrun_here("data", "show", f"--gin_file={folder / 'sums.gin'}")
    assert shown.returncode == 0, shown.stderr.decode()
    assert b"LanguageModelData, split train" in shown.stdout and b" + " in shown.stdout


@pytest.mark.slow
def test_the_source_of_texts_is_trained(folder: pathlib.Path) -> None:
    sizes = ["--gin.NUM_LAYERS=1", "--gin.D_MODEL=16", "--gin.D_FF=16", "--gin.BATCH_SIZE=2"]
    run = _trained(folder, "sums.gin", *sizes, "--gin.TRAIN_STEPS=2")
    assert (run / "checkpoints/ckpt-2.json").exists()


def test_the_inference_makes_the_records(run: pathlib.Path) -> None:
    flags = [f"--model_dir={run}", "--gin_param=Experiment.inference = @own_classes.Lengths"]
    decode = ["decode", *flags, UNMEASURED, ALLOWED, "--prompt=abc"]
    assert succeeded(mtfrun_here(*decode)) == [{"length": 3, "step": 20}]
    assert mtfrun_here(*decode, "--format=text").stdout == b"3\n"
    refused = error_line(mtfrun_here(*decode, "--beam_size=2"))
    assert "Lengths has no setting --beam_size: leave it out" in refused
    (run.parent / "pairs.tsv").write_text("a\tb\n")
    score = ["score", *flags, UNMEASURED, ALLOWED, f"--input={run.parent / 'pairs.tsv'}"]
    assert "does not score pairs" in error_line(mtfrun_here(*score))


@pytest.mark.slow
def test_the_action_ends_training(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = [f"--gin_file={folder}/own.gin", "--gin.StopBelow.loss=100.0"]
    process = mtfrun_here("train", *flags, UNMEASURED, f"--model_dir={tmp_path}/run")
    lines = process.stderr.decode().splitlines()
    assert process.returncode == 0, lines
    assert "ending at step 5: the loss is below 100.0" in lines
    ((step, value),) = curve(f"{tmp_path}/run", "stopped_at").items()
    assert step == 5 and f"step 5: the loss is {value:.3f}" in lines


def test_the_optimizer_moves_by_the_sign_of_the_average() -> None:
    variables = make_variables(mtf.Mesh(), {"w": np.zeros([3], np.float32)}, {"w": ["size"]})
    # The last average is 0.9 * 0.1 * (1, -2, 0) + 0.1 * (-1, -1, 0) = (-0.01, -0.28, 0).
    gradients = np.array([[1.0, -2.0, 0.0], [-1.0, -1.0, 0.0]], np.float32)
    after = run_updates(Signum(0.5), variables, {"w": gradients})
    np.testing.assert_array_equal(after["w"], [[-0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])


def test_the_layer_and_the_gate_are_built_in_a_transformer(folder: pathlib.Path) -> None:
    config = f"--gin_file={folder / 'transformer.gin'}"
    process = mtfrun_here("train", "--dry_run", config, UNMEASURED, *TINY_SIZES)
    assert process.returncode == 0, process.stderr.decode()
    assert b"router" in process.stdout and b"squared_relu" in process.stdout


@pytest.mark.slow
def test_the_layer_and_the_gate_are_trained_in_a_transformer(folder: pathlib.Path) -> None:
    run = _trained(folder, "transformer.gin", UNMEASURED, *TINY_SIZES)
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["step"] == 20 and metrics["eval/loss"] < 0.9 * math.log(384)
    decode = ["decode", f"--model_dir={run}", ALLOWED, "--prompt=1", "--decode_length=3"]
    (answer,) = succeeded(mtfrun_here(*decode))
    assert answer["prompt"] == "1"
    manifest = (run / "checkpoints/ckpt-20.json").read_text()
    for path in ("squared_relu/layer/wi", "moe_1d/layer/router/kernel/momentum"):
        assert path in manifest


@pytest.mark.slow
def test_the_adapter_is_trained_and_decoded(folder: pathlib.Path) -> None:
    base = _trained(folder, "transformer.gin", UNMEASURED, *TINY_SIZES)
    adapter = base / "adapters/scales"
    files = [f"--gin_file={base}/config.gin", f"--gin_file={folder / 'own_adapter.gin'}"]
    flags = [f"--gin.INIT_CHECKPOINT='{base}'", f"--model_dir={adapter}"]
    process = mtfrun_here("train", *files, *flags)
    assert process.returncode == 0, process.stderr.decode()
    decode = ["decode", f"--model_dir={base}", "--adapter=scales", "--prompt=1"]
    (answer,) = succeeded(mtfrun_here(*decode, ALLOWED, "--decode_length=3"))
    assert answer["prompt"] == "1"
    manifest = (adapter / "checkpoints/ckpt-20.json").read_text()
    assert "squared_relu/adapter/scale" in manifest and "/wi/" not in manifest


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            ["--gin_param=Experiment.data = @data.LanguageModelData()", "--gin.TEXT_FILES='x'"],
            'PairsOfIds reads "targets" and not "targets_segmentation", "targets_position", and '
            'LanguageModelData makes "targets", "targets_segmentation", "targets_position": choose',
        ),
        (
            ["--gin_param=Experiment.data = 5"],
            "--gin_param=Experiment.data = 5: Experiment.data is 5: it must be a reference: ",
        ),
        (
            ["--gin_param=Experiment.inference = @experiment.Classification"],
            "Classification needs ImageModel, which PairsOfIds is not: set Experiment.inference",
        ),
        pytest.param(
            [
                "--gin_param=Evaluation.evaluators = [@experiment.DecodedPairs]",
                "--gin.DecodedPairs.num_decodes=3",
            ],
            "DecodedPairs.num_decodes=3 needs pairs to compare outputs with: set it to 0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            [
                "--gin_param=Evaluation.evaluators = [@experiment.Entropies]",
                "--gin.Entropies.orders=[2]",
            ],
            "Entropies.orders=[2] needs running text, which Counting is not: set it to []",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--gin_param=Evaluation.evaluators = [@experiment.LabelledImages]"],
            "Evaluation.evaluators: LabelledImages needs ImageData, which Counting is not:",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parts_that_do_not_fit_are_an_error_of_one_line(
    flags: list[str], expected: str, run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    if "--gin.TEXT_FILES='x'" in flags:
        flags = ["--gin_file=data/text_files.gin", *flags]
    if "Classification" in flags[-1]:
        flags = [*flags, "--gin.Classification.batch_size=2"]
    config = f"--gin_file={run.parent / 'own.gin'}"
    line = error_line(mtfrun_here("train", config, *flags, f"--model_dir={tmp_path}/run"))
    assert line.startswith("mtfrun: error: ") and expected in line
    assert not (tmp_path / "run").exists()
