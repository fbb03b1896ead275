"""What must be seen on one GPU."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tests.cli.command import ROOT, TINY, tiny_experiment
from tests.gpu import machine
from tests.gpu.machine import KIND, mtfrun, run
from tests.layouts import FLOAT32_MODEL_TOLERANCE, FLOAT32_OP_TOLERANCE, ONE_DEVICE, assert_close
from tests.training.toy_run import curve

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("one_gpu")]

# Of a float32 product of 512 terms with the exact one; TF32 would be about 50 times as far.
PRODUCT_TOLERANCE = 1e-5
DETERMINISTIC = "--gin.DeviceSettings.deterministic=True"
MEMORY_GROWTH = "--gin.DeviceSettings.memory_growth=True"

# Flags by name: a language model, a mixture of experts of two levels, a residual network.
RUNS = {
    # The schedule is the same, whatever the number of steps.
    "language model": [
        *("--gin_file=runs/language_model.gin", "--gin.CosineDecay.total_steps=1000"),
        "--gin.WARMUP_STEPS=100",
    ],
    "mixture": [
        *("--gin_file=defaults.gin", "--gin_file=models/moe_2d_tiny.gin"),
        "--gin_file=data/python_source.gin",
    ],
    "digits": ["--gin_file=runs/digits.gin"],
}


def train(kind: str, model_dir: pathlib.Path, *flags: str, steps: int) -> str:
    """Trains and returns what is printed to standard error."""
    every_step = ["--gin.LOG_EVERY=1", f"--gin.EVAL_EVERY={steps}", f"--gin.TRAIN_STEPS={steps}"]
    evaluation = ["--gin.Evaluation.max_batches=2", "--gin_param=Evaluation.evaluators = []"]
    words = [*flags, *every_step, *evaluation, f"--model_dir={model_dir}"]
    return mtfrun(kind, "train", *words).stderr


def losses(model_dir: pathlib.Path) -> np.ndarray:
    """Returns the loss of every step of a run."""
    by_step = curve(str(model_dir), "loss")
    assert list(by_step) == list(range(1, len(by_step) + 1))
    return np.array(list(by_step.values()))


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_those_of_the_cpu(name: str, tmp_path: pathlib.Path) -> None:
    printed = train(KIND, tmp_path / "here", *RUNS[name], steps=10)
    assert machine.devices(1) in printed
    train("CPU", tmp_path / "cpu", *RUNS[name], steps=10)
    assert_close(losses(tmp_path / "here"), losses(tmp_path / "cpu"), FLOAT32_MODEL_TOLERANCE)


def test_steps_compiled_by_xla_and_by_tensorflow_have_the_same_losses(
    tmp_path: pathlib.Path,
) -> None:
    for jit_compile in (True, False):
        flag = f"--gin.TrainOptions.jit_compile={jit_compile}"
        train(KIND, tmp_path / str(jit_compile), *RUNS["language model"], flag, steps=10)
    assert_close(losses(tmp_path / "True"), losses(tmp_path / "False"), FLOAT32_MODEL_TOLERANCE)


def test_bfloat16_activations_train(tmp_path: pathlib.Path) -> None:
    flag = "--gin.ACTIVATION_DTYPE='bfloat16'"
    train(KIND, tmp_path, *RUNS["language model"], flag, steps=40)
    values = losses(tmp_path)
    assert np.isfinite(values).all() and values[-1] < values[0] - 0.5


def test_a_checkpoint_of_either_device_continues_on_the_other(tmp_path: pathlib.Path) -> None:
    for first, second in ((KIND, "CPU"), ("CPU", KIND)):
        model_dir = tmp_path / f"from_{first}"
        train(first, model_dir, *RUNS["language model"], steps=4)
        train(second, model_dir, *RUNS["language model"], steps=8)
    undisturbed = tmp_path / "cpu"
    train("CPU", undisturbed, *RUNS["language model"], steps=8)
    for first in (KIND, "CPU"):
        assert_close(losses(tmp_path / f"from_{first}"), losses(undisturbed), 1e-4)


def test_evaluation_and_decodes_are_those_of_the_cpu(tmp_path: pathlib.Path) -> None:
    train("CPU", tmp_path / "run", *RUNS["language model"], steps=40)
    model_dir = f"--model_dir={tmp_path}/run"
    here, cpu = (json.loads(mtfrun(kind, "eval", model_dir).stdout) for kind in (KIND, "CPU"))
    assert_close(here["loss"], cpu["loss"], FLOAT32_MODEL_TOLERANCE)
    prompts = ["--prompt=def ", "--prompt=class ", "--decode_length=32"]
    for search in (
        ["--beam_size=4", "--temperature=0"],
        ["--temperature=0"],
        ["--temperature=0.9", "--seed=3"],
    ):
        outputs = []
        for kind in (KIND, "CPU"):
            printed = mtfrun(kind, "decode", model_dir, *prompts, *search).stdout
            outputs.append([json.loads(line)["output"] for line in printed.splitlines()])
        assert outputs[0] == outputs[1]


def test_a_resumed_run_repeats_every_bit(tmp_path: pathlib.Path) -> None:
    train(KIND, tmp_path / "whole", *RUNS["language model"], DETERMINISTIC, steps=20)
    train(KIND, tmp_path / "parts", *RUNS["language model"], DETERMINISTIC, steps=10)
    train(KIND, tmp_path / "parts", *RUNS["language model"], DETERMINISTIC, steps=20)
    np.testing.assert_array_equal(losses(tmp_path / "whole"), losses(tmp_path / "parts"))


def test_all_operations_compute_what_the_cpu_does(tmp_path: pathlib.Path) -> None:
    # Among them random numbers, which are uint32 arithmetic, and gathers by int32.
    compare_operations(ONE_DEVICE, tmp_path)


def compare_operations(mesh_shape: str, folder: pathlib.Path) -> None:
    """Compares all cases of all operations on a mesh with one CPU."""
    files = {KIND: folder / "here.npz", "CPU_reference": folder / "cpu.npz"}
    run(KIND, "-m", "tests.gpu.operations", mesh_shape, str(files[KIND]))
    run("CPU", "-m", "tests.gpu.operations", ONE_DEVICE, str(files["CPU_reference"]))
    here, cpu = (dict(np.load(file)) for file in files.values())
    wrong = [f"{name}: {here[name]}" for name in here if name.endswith("/error")]
    for name in sorted(here.keys() & cpu.keys()):
        if not name.endswith("/error"):
            try:
                assert_close(here[name], cpu[name], FLOAT32_OP_TOLERANCE)
            except AssertionError as error:
                wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)
    assert here.keys() == cpu.keys()


_PRODUCTS = """
import numpy as np
from mtfrun import mtf

rng = np.random.default_rng(0)
a, b = rng.normal(size=(2, 512, 512)).astype(np.float32)
mesh = mtf.Mesh()
rows, inner, cols = (mtf.Dimension(name, 512) for name in ("rows", "inner", "cols"))
product = mtf.to_numpy(mtf.einsum(
    [mtf.import_tf_tensor(mesh, a, [rows, inner]), mtf.import_tf_tensor(mesh, b, [inner, cols])],
    reduced_dims=[inner]))
exact = a.astype(np.float64) @ b.astype(np.float64)
print("error", np.abs(product - exact).max() / np.abs(exact).max())
"""


def test_products_of_float32_are_not_rounded_to_fewer_bits() -> None:
    error = run(KIND, "-c", _PRODUCTS).stdout.split("error ")[1]
    assert float(error) < PRODUCT_TOLERANCE


_HOLDING = """
import sys
import numpy as np
from mtfrun import mtf

mesh = mtf.Mesh(settings=mtf.DeviceSettings(memory_growth=True))
size = mtf.Dimension("size", 1 << 20)
x = mtf.import_tf_tensor(mesh, np.ones(size.size, np.float32), [size])
print(float(mtf.to_numpy(mtf.reduce_sum(x))), flush=True)
sys.stdin.read()
"""


def test_programs_share_a_gpu_whose_memory_grows(tmp_path: pathlib.Path) -> None:
    holding = subprocess.Popen(
        [sys.executable, "-c", _HOLDING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=machine.environment(KIND),
    )
    assert holding.stdin is not None and holding.stdout is not None
    try:
        assert float(holding.stdout.readline()) == 1 << 20
        train(KIND, tmp_path / "run", *tiny_experiment(tmp_path), MEMORY_GROWTH, steps=2)
    finally:
        holding.stdin.close()
        holding.wait(60)
        holding.stdout.close()
    assert len(losses(tmp_path / "run")) == 2


def test_too_few_gpus_are_an_error_of_one_line() -> None:
    if KIND == "CPU":
        pytest.skip("any number of CPUs is simulated")
    flags = ["--gin_file=runs/quickstart.gin", "--gin.MESH_SHAPE='data:512,model:1'"]
    flags += [*TINY[:2], "--gin.BATCH_SIZE=512", "--model_dir=/tmp/never_made"]
    line = mtfrun(KIND, "train", *flags, code=2).stderr.splitlines()[-1]
    assert f"needs 512 devices, this machine has {machine.count()} GPUs" in line
