"""LoRA in a run: training, resuming, and its use with the model that it was trained for."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

import mtfrun
from mtfrun.rundir import RunDirectory
from tests.cli.command import error_line, header_of, mtfrun_here, succeeded
from tests.layouts import FLOAT32_MODEL_TOLERANCE, FLOAT32_OP_TOLERANCE, assert_close

TRAINING = [
    "--gin_file=adapters/lora.gin",
    "--gin.LORA_RANK=2",
    "--gin.LORA_VARIABLES='attention/|softmax'",
    "--gin.LEARNING_RATE=0.1",
    "--gin.WARMUP_STEPS=1",
]


def _flags(base: pathlib.Path, *, steps: int = 2) -> list[str]:
    of_base = [f"--gin_file={base}/config.gin", f"--gin.INIT_CHECKPOINT='{base}'"]
    texts = f"--gin.TEXT_FILES={{'train': '{base}/digits.txt', 'validation': '{base}/digits.txt'}}"
    return [*of_base, *TRAINING, texts, f"--gin.TRAIN_STEPS={steps}"]


@pytest.fixture(scope="module")
def base(
    untouched_runs: Callable[[str], pathlib.Path], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A run of two steps, with the adapter "small" of as many, on other texts, in its directory."""
    run = tmp_path_factory.mktemp("adapters") / "base"
    shutil.copytree(untouched_runs("language model"), run)
    (run / "digits.txt").write_text("0123456789\n" * 100)
    succeeded(mtfrun_here("train", *_flags(run), f"--model_dir={run}/adapters/small"))
    return run


def test_a_checkpoint_has_the_adapter_alone_and_names_its_base(base: pathlib.Path) -> None:
    of_base, adapter = RunDirectory(str(base)), RunDirectory(str(base / "adapters/small"))
    manifest, whole = adapter.checkpoints().manifest(2), of_base.checkpoints().manifest(2)
    assert manifest is not None
    assert whole is not None
    model = [path for path in manifest.variables if path.startswith("model/")]
    assert model
    assert all(path.endswith(("/lora_a", "/lora_b")) for path in model)
    saved = manifest.metadata["adapters"]
    assert saved["adapters"][0]["kind"] == "LoRA"
    assert saved["base"]["path"] == f"{base}/checkpoints/ckpt-2"
    assert saved["base"]["step"] == 2
    assert len(saved["base"]["sha256"]) == 64
    sizes = [sum(file.bytes for file in m.files.values()) for m in (manifest, whole)]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.slow
def test_an_adapter_is_used_by_its_name_and_as_a_run(base: pathlib.Path) -> None:
    run = mtfrun.load(base, adapters=["small"])
    adapted = run.adapters["small"]
    (of_base,) = run.score([("the ", "quick")])
    (expected,) = adapted.score([("the ", "quick")])
    assert expected.log_likelihood != of_base.log_likelihood
    pairs = base / "pairs.tsv"
    pairs.write_text("the \tquick\n")
    for flags in (
        [f"--model_dir={base}", "--adapter=small"],
        [f"--model_dir={base}/adapters/small"],
    ):
        (scored,) = succeeded(mtfrun_here("score", *flags, f"--input={pairs}"))
        assert scored["log_likelihood"] == pytest.approx(expected.log_likelihood, rel=1e-5)
        (evaluated,) = succeeded(mtfrun_here("eval", *flags))
        assert evaluated["loss"] == pytest.approx(adapted.evaluate()["loss"], rel=1e-5)
    # The weights are there once.
    table = "embedding/table"
    storage = [x.model.named_variables()[table].variable for x in (run, adapted)]
    assert storage[0] is storage[1]


def test_a_merged_model_has_the_logits_of_the_adapter(
    base: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    export = mtfrun_here(
        "export", f"--model_dir={base}/adapters/small", f"--to={tmp_path}/m", "--format=tensorflow"
    )
    assert export.returncode == 0, export.stderr.decode()
    adapted = mtfrun.load(base / "adapters/small")
    merged = mtfrun.load(None, gin_files=f"{base}/config.gin", INIT_CHECKPOINT=str(tmp_path / "m"))
    ids = {"targets": np.arange(1, 33)[None]}
    assert_close(merged.logits(ids), adapted.logits(ids), FLOAT32_OP_TOLERANCE)


@pytest.mark.slow
def test_training_resumes_and_decode_and_eval_take_adapters(base: pathlib.Path) -> None:
    run = f"--model_dir={base}/adapters/resumed"
    for steps in (1, 3):
        process = mtfrun_here("train", *_flags(base, steps=steps), run)
        succeeded(process)
    assert header_of(process)["start"] == "resuming from step 1 of 3"
    assert "LoRA(rank=2" in header_of(process)["adapters"]
    answers = [
        succeeded(mtfrun_here(command, *flags, *more))[-1]
        for command, more in (("decode", ["--prompt=the "]), ("eval", []))
        for flags in ([run], [f"--model_dir={base}", "--adapter=resumed"])
    ]
    for adapter, named in (answers[:2], answers[2:]):
        assert {**adapter, "step": 0} == {**named, "step": 0}


@pytest.mark.slow
def test_adapters_share_weights_that_a_mesh_divides(base: pathlib.Path) -> None:
    layout = {"mesh": "data:2,model:2", "layout": "batch:data;heads:model;weights:data"}
    of_mesh = mtfrun.load(base, adapters={"a": base / "adapters/small"}, **layout)
    expected = mtfrun.load(base, adapters=["small"])
    ids = {"targets": np.arange(1, 33)[None]}
    for one, other in ((of_mesh, expected), (of_mesh.adapters["a"], expected.adapters["small"])):
        assert_close(one.logits(ids), other.logits(ids), FLOAT32_MODEL_TOLERANCE)


def test_mistakes_are_one_line(base: pathlib.Path, tmp_path: pathlib.Path) -> None:
    new = f"--model_dir={tmp_path}/new"
    train = ["train", *_flags(base), new]
    without = [flag for flag in _flags(base) if "lora" not in flag.lower()]
    lines = {
        "did you mean 'small'?": ["decode", f"--model_dir={base}", "--adapter=smal", "--prompt=a"],
        "is not a run of adapters": [
            *("decode", f"--model_dir={base}", f"--adapter={base}", "--prompt=a")
        ],
        "LoRA.rank is 0": [*train, "--gin.LORA_RANK=0"],
        "paths of kernels, did you mean 'query'?": [*train, "--gin.LORA_VARIABLES='querry'"],
        "adapters need a trained model": [*train, "--gin.INIT_CHECKPOINT=None"],
        "has adapters of": [*train, f"--gin.INIT_CHECKPOINT='{base}/adapters/small'"],
        ": adapters are @layers.LoRA()": [
            *("train", *without, "--gin_param=Training.adapters = @Adafactor()", new)
        ],
        "are not those that the adapters were trained for": [
            *("decode", f"--model_dir={base}", "--checkpoint=1", "--adapter=small", "--prompt=a")
        ],
    }
    for message, command in lines.items():
        assert message in error_line(mtfrun_here(*command))
