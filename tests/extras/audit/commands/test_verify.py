"""The command verify: what it finds in classes whose numbers depend on the mesh, and its errors."""

from __future__ import annotations

import json
import pathlib

import pytest

from mtfrun.errors import ExitCode
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment
from tests.experiment.test_own_classes import CONFIG, FOLDER, TRANSFORMER_CONFIG

MESH = "--mesh=data:2,model:2"
SIZES = ["--gin.NUM_LAYERS=1", "--gin.D_MODEL=16", "--gin.NUM_HEADS=4", "--gin.D_KV=4"]


@pytest.fixture(autouse=True)
def own_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the module of that page importable under its name."""
    monkeypatch.syspath_prepend(FOLDER)


def _file(folder: pathlib.Path, config: str) -> str:
    """Returns the flag of a gin file of docs/your_own_classes.md, which imports wrong classes."""
    imports = "from mtfrun import data\nfrom tests.extras.audit.verify import wrong_classes\n"
    file = folder / "own.gin"
    file.write_text(config.replace("from mtfrun import data\n", imports, 1))
    return f"--gin_file={file}"


def _wrong_layer(folder: pathlib.Path, layer: str = "WrongLayer") -> list[str]:
    """Returns the flags of a Transformer with a layer, by default with a wrong gradient."""
    layers = f"transformer.Stack.layers = [@transformer.SelfAttention, @wrong_classes.{layer}]\n"
    return [_file(folder, TRANSFORMER_CONFIG + layers), *SIZES, "--steps=1", "--decodes=0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer", "what", "line"),
    [
        ("MeanOverPart", "output", "return mtf.replace_dimensions(x, dim, [parts, part]), part"),
        ("NormOverShard", "output", "return mtf.replace_dimensions(x, dim, [parts, part]), part"),
        ("DropoutByDevice", "output", "return mtf.dropout(y, call.training, rate=0.5, key=key)"),
        ("WrongLayer", "gradient", "return mtf.custom_gradient(lambda y: y * 1.0, gradient, [x])"),
    ],
)
def test_the_layer_and_the_operation_at_fault_are_named(
    layer: str, what: str, line: str, tmp_path: pathlib.Path
) -> None:
    process = mtfrun_here("audit", "verify", *_wrong_layer(tmp_path, layer), MESH, "--json")
    assert process.returncode == ExitCode.NOT_EQUAL, process.stderr.decode()
    at_fault = json.loads(process.stdout)["at_fault"]
    assert (at_fault["name"], at_fault["what"]) == (layer, what)
    assert at_fault["line"].endswith(line)


@pytest.mark.slow
def test_every_mesh_may_have_its_own_layout(tmp_path: pathlib.Path) -> None:
    layouts = ["--mesh=data:2", "--layout=batch:data", "--mesh=all:2", "--layout=d_ff:all"]
    process = mtfrun_here("audit", "verify", *_wrong_layer(tmp_path), *layouts)
    assert process.returncode == ExitCode.NOT_EQUAL, process.stderr.decode()
    _, right, wrong = process.stdout.decode().split("\n\n")
    # The layer multiplies by the number of parts of d_ff.
    assert "\n  layout          batch:data\n" in right and right.endswith("  equal within 0.0001")
    assert "\n  layout          d_ff:all\n" in wrong and "  NOT equal within 0.0001" in wrong


@pytest.mark.parametrize(
    ("flag", "first", "at_fault"),
    [
        (
            "Experiment.model = @wrong_classes.WrongLoss",
            "step 1  gradients  1  table [",
            "return super().logits(features) * float(targets.mesh.num_splits(batch))",
        ),
        (
            "Experiment.model = @wrong_classes.WrongInitialValues",
            "before  initial values  3  table",
            "the initial value of table of WrongInitialValues differs by 3 at ",
        ),
        (
            "Experiment.model = @wrong_classes.WrongDecodes",
            "step 3  decodes  1, ",
            "the decoder of WrongDecodes differs: ",
        ),
        (
            "Experiment.model = @wrong_classes.WrongEvaluation",
            "step 3  evaluation  ",
            "return mtf.replace_dimensions(x, dim, [parts, part]), part",
        ),
        (
            "Training.optimizer = @wrong_classes.WrongUpdates()",
            "step 1  updates  3  table [",
            "values[variable] = before + (values[variable] - before) * float(variable.mesh.size)",
        ),
        (
            "Training.optimizer = @wrong_classes.WrongSmallUpdates()",
            "step 1  updates  1  table [",
            "return mtf.where(mtf.less(mtf.abs(g), least), 0.0, g)",
        ),
    ],
)
def test_what_is_wrong_first_is_listed_first(
    flag: str, first: str, at_fault: str, tmp_path: pathlib.Path
) -> None:
    flags = [_file(tmp_path, CONFIG), f"--gin_param={flag}", MESH]
    if "optimizer" in flag:
        optimizer = flag.partition("@wrong_classes.")[2].removesuffix("()")
        flags.append(f"--gin.{optimizer}.learning_rate=0.1")
    if first.startswith("step 1"):
        flags += ["--steps=1", "--decodes=0"]
    process = mtfrun_here("audit", "verify", *flags)
    assert process.returncode == ExitCode.NOT_EQUAL, process.stderr.decode()
    before, listed = process.stdout.decode().split("computation:\n")
    assert listed.splitlines()[0].strip().startswith(first)
    assert at_fault in before.partition("  at fault  ")[2]


@pytest.mark.slow
def test_the_numbers_are_printed_as_json(tmp_path: pathlib.Path) -> None:
    flags = [*tiny_experiment(tmp_path), "--gin.NUM_LAYERS=1"]
    flags.append("--gin.MESH_SHAPE='data:2,model:2'")
    (mesh,) = succeeded(mtfrun_here("audit", "verify", *flags, "--steps=1", "--json"))
    assert mesh["equal"] and mesh["above"] == [] and mesh["tolerance"] == 1e-4
    assert 0 < mesh["largest"]["gradients"]["relative"] < 1e-4
    assert mesh["largest"]["decodes"]["relative"] < 1e-4
    flags += ["--steps=1", "--decodes=0", "--tolerance=0"]
    exact = mtfrun_here("audit", "verify", *flags, "--json")
    assert exact.returncode == ExitCode.NOT_EQUAL
    above = json.loads(exact.stdout)["above"]
    assert above and all(difference["relative"] > 0 for difference in above)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--model_dir=/tmp/run"], "verify uses no run: give --gin.INIT_CHECKPOINT"),
        (["--layout=batch:data"], "--layout=batch:data needs a --mesh before it"),
        (["--mesh=2x2"], "--mesh=2x2: not a mesh: write --mesh=data:2,model:2"),
        (["--mesh=a:2", "--layout=b"], "--layout=b: not a layout: write --layout='batch:data"),
        (["--steps=0"], "--steps=0: it must be at least 1"),
        (["--tolerance=nan"], "--tolerance=nan: it must be at least 0"),
        ([], "the mesh data:1;model:1 is one device: add --mesh=data:2,model:2"),
        (["--mesh=data:4"], "layout rule heads:model names a mesh axis that does not exist"),
    ],
)
def test_flags_that_cannot_be_used_are_an_error_of_one_line(
    flags: list[str], expected: str, tmp_path: pathlib.Path
) -> None:
    line = error_line(mtfrun_here("audit", "verify", *tiny_experiment(tmp_path), *flags))
    assert line.startswith("mtfrun: error: ") and expected in line
