"""What shipped gin files build; test_gin_headers.py builds all of them by their commands."""

from __future__ import annotations

import pathlib
import re

import numpy as np
import pytest

from mtfrun import mtf
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.configuration.files import SHIPPED, find_gin_file, shipped_gin_files
from mtfrun.errors import ConfigError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import ROOTS, build
from tests.cli.command import TINY

# The sweeps and the recipes of tasks have tests of their own.
OTHERS = ("extras/sweeps/", "extras/t5/")
FILES = [name for name in shipped_gin_files() if not name.startswith(OTHERS)]
BASE = ["defaults.gin", "models/lm_tiny.gin", "data/python_docs.gin"]
IMAGE_BASE = ["defaults.gin", "models/resnet.gin", "data/digits.gin"]
MASKED_LM = ["runs/masked_lm.gin"]
CLASSIFICATION = ["data/tsv_pairs.gin", "extras/text_tasks/data/text_classification.gin"]
TINY_VIT = ["--gin.NUM_LAYERS=1", "--gin.D_MODEL=8", "--gin.D_FF=8", "--gin.NUM_HEADS=2"]

# Macros that the user must set: the files of the data.
REQUIRED = re.compile(r"^(\w+) = %gin\.REQUIRED$", re.MULTILINE)


def _build(files: list[str], flags: list[str]) -> Training:
    texts = [pathlib.Path(SHIPPED, name).read_text() for name in files]
    required = [macro for text in texts for macro in REQUIRED.findall(text)]
    named = [f"--gin.{macro}='/none/*'" for macro in required]
    bindings = parse_flags(["train", "--dry_run", "--gin_file=x", *named, *flags]).bindings
    config.parse(files, bindings, roots=ROOTS)
    experiment, evaluation = build()
    # A run that is trained with it can be read without --gin_allow_imports.
    assert "--gin_allow_imports" not in config.config_text()
    return config.build(Training, experiment, evaluation)


def test_every_kind_of_file_is_shipped() -> None:
    kinds = "adapters data defaults.gin extras layouts models optimizers runs schedules"
    assert sorted({path.partition("/")[0] for path in shipped_gin_files()}) == kinds.split()


def test_a_file_of_one_extra_is_found_without_the_extra_s_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtfrun.configuration.files.SHIPPED", tmp_path)
    for name in ("a/models/one.gin", "a/models/two.gin", "b/models/two.gin", "sweeps/s.gin"):
        file = tmp_path / "extras" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    for name, path in (("models/one.gin", "a/models/one.gin"), ("sweeps/s.gin", "sweeps/s.gin")):
        assert find_gin_file(name) == tmp_path / "extras" / path
    with pytest.raises(ConfigError, match=r"name extras/a/models/two.gin or extras/b/models/two"):
        find_gin_file("models/two.gin")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/two.gin").touch()
    assert find_gin_file("models/two.gin") == tmp_path / "models/two.gin"


@pytest.mark.parametrize("by_flag", [False, True])
def test_a_file_or_a_flag_may_give_a_class_its_other_name(
    tmp_path: pathlib.Path, *, by_flag: bool
) -> None:
    file = tmp_path / "a.gin"
    imports = "from __gin__ import dynamic_registration\nfrom mtfrun import layers\n"
    file.write_text(f"{imports}layers.LayerNorm.epsilon = 0.25\n")
    files = ["defaults.gin", "extras/vision/models/vit.gin", "data/digits.gin"]
    flags = [*TINY_VIT, "--gin.D_KV=4", "--gin.PATCH_SIZE=4"]
    if by_flag:
        training = _build(files, [*flags, "--gin.layers.LayerNorm.epsilon=0.25"])
    else:
        training = _build([*files, str(file)], flags)
    assert "epsilon = 0.25" in config.config_text()
    assert training.tokens_per_step == 32


def test_any_decoder_only_model_becomes_a_prefix_language_model() -> None:
    files = ["defaults.gin", "models/moe_1d_tiny.gin"]
    files += ["data/number_words.gin", "data/delimited_pairs.gin"]
    prefix = ["--gin.DecoderOnly.prefix=True", "--gin.DecoderOnly.loss_on_targets_only=True"]
    sizes = [*TINY, "--gin.SEQUENCE_LENGTH=80", "--gin.GROUP_SIZE=80"]
    training = _build(files, [*sizes, *prefix])
    assert training.experiment.model.reads_pairs
    assert any("moe_1d" in path for path in training.state.named_variables())


def test_shipped_files_name_modules_without_an_alias() -> None:
    lines = {
        (name, line)
        for name in FILES
        for line in pathlib.Path(SHIPPED, name).read_text().splitlines()
        if not line.startswith("#")
    }
    assert {(name, line) for name, line in lines if " as " in line} == set()


def test_shipped_files_import_the_modules_of_their_references() -> None:
    for name in FILES:
        lines = pathlib.Path(SHIPPED, name).read_text().splitlines()
        code = "\n".join(line.partition("#")[0] for line in lines)
        modules = set(re.findall(r"@(?:[\w.]+/)*([a-z_0-9]+)\.\w", code))
        assert modules <= set(re.findall(r"\bimport (?:\w+\.)*(\w+)$", code, re.MULTILINE)), name


@pytest.mark.parametrize(
    ("first", "second", "flags"),
    [
        (["runs/denoise.gin"], ["runs/number_words.gin"], ["--gin.SEQUENCE_LENGTH=128"]),
        (MASKED_LM, [*MASKED_LM, *CLASSIFICATION], []),
    ],
)
def test_a_pretrained_model_has_the_variables_of_the_one_that_begins_with_it(
    first: list[str], second: list[str], flags: list[str]
) -> None:
    models = [_build(files, flags).state.model for files in (first, second)]
    shapes = [{path: v.shape for path, v in m.named_variables().items()} for m in models]
    assert shapes[0] == shapes[1]


def test_the_default_layout_splits_what_it_names() -> None:
    training = _build(BASE, [*TINY, "--gin.MESH_SHAPE='data:2,model:2'"])
    assert training.experiment.mesh.unused_rules() == []


def test_the_small_model_is_that_of_the_benchmark() -> None:
    training = _build(["defaults.gin", "models/lm_small.gin", "data/python_docs.gin"], [])
    variables = training.state.model.named_variables()
    shapes = {path: variable.shape.to_string for path, variable in variables.items()}
    path = "decoder_stack/blocks/3/"
    assert shapes[f"{path}feed_forward/layer/wi/kernel"] == "d_model:256;d_ff:1024"
    query = shapes[f"{path}self_attention/layer/attention/query"]
    assert query == "d_model:256;heads:4;d_kv:64"
    assert not any("blocks/4" in name for name in variables)


@pytest.mark.parametrize(("name", "millions"), [("t5.1.0.tiny", 1.0), ("t5.1.1.tiny", 0.9)])
def test_a_t5_model_has_the_variables_of_its_checkpoints(name: str, millions: float) -> None:
    training = _build(["defaults.gin", f"models/{name}.gin", "data/number_words.gin"], [])
    variables = training.state.model.named_variables()
    assert {
        "encoder_stack/relative_bias/table",
        "decoder_stack/relative_bias/table",
        "decoder_stack/blocks/1/encoder_decoder_attention/layer/attention/query",
    } <= set(variables)
    assert not any(path.startswith("position") for path in variables)
    assert ("softmax/kernel" in variables) == (name == "t5.1.1.tiny")
    total = sum(variable.shape.size for variable in variables.values())
    assert round(total / 1e6, 1) == millions


def test_the_transforms_of_a_stack_are_a_list() -> None:
    names = ("CallLayer", "Residual", "LayerNorm", "LayerNorm")
    order = ", ".join(f"@transformer.{name}" for name in names)
    training = _build(BASE, [*TINY, f"--gin_param=transformer.StackTransforms.layer=[{order}]"])
    variables = training.state.model.named_variables()
    start = "decoder_stack/blocks/0/feed_forward/"
    inside = {path.removeprefix(start) for path in variables if path.startswith(start)}
    norms = {f"norm_{i}/{part}" for i in range(2) for part in ("scale", "bias")}
    assert {path for path in inside if not path.startswith("layer/")} == norms


def test_the_vocabulary_is_padded_to_a_divisor() -> None:
    training = _build(BASE, [*TINY, "--gin.VOCABULARY_DIVISOR=512"])
    variables = training.state.named_variables()
    assert variables["model/embedding/table"].shape.to_string == "vocab:512;d_model:16"


def test_the_written_configuration_builds_the_same_model(tmp_path: pathlib.Path) -> None:
    adam = ["--gin_param=Training.optimizer=@optim.Adam()", "--gin.Adam.learning_rate=0.001"]
    first = _build(BASE, [*TINY, *adam])
    written = tmp_path / "config.gin"
    written.write_text(config.config_text())
    second = _build([str(written)], [])
    shapes = [
        {path: v.shape for path, v in training.state.named_variables().items()}
        for training in (first, second)
    ]
    assert shapes[0] == shapes[1]
    assert any(path.startswith("optimizer/") for path in shapes[0])


@pytest.mark.slow
def test_the_averages_of_batch_norm_have_the_momentum_of_the_configuration(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    averages = []
    for momentum in (0.75, 0.9):
        flags = [f"--gin.NORM_MOMENTUM={momentum}", "--gin.STAGE_SIZES=[1, 1, 1]"]
        training = _build(IMAGE_BASE, flags)
        model, mesh = training.state.model, training.state.mesh
        training.state.initialize()
        infeed = training.experiment.evaluation_infeed(8, "test", 1)
        step = mtf.function(lambda f, m=model: m.loss(f, training=True, key=mtf.random_key(0)))
        features = infeed.next(1)
        assert features is not None
        shapes = training.experiment.data.shapes(8)
        batch = {
            name: mtf.import_tf_tensor(mesh, x.value[0], shapes[name])
            for name, x in features.items()
        }
        averages.append(mtf.to_numpy(step(batch).updates))
    # They begin at 0; the mean of the batch enters with weight 1 - momentum.
    means = [path for path in averages[0] if path.endswith("moving_mean")]
    assert len(means) == 3 * 2 + 2 + 1
    for path in means:
        assert np.abs(averages[1][path]).max() > 0.0
        np.testing.assert_allclose(averages[0][path], 2.5 * averages[1][path], rtol=1e-4, atol=1e-6)


def _on_two_axes() -> Training:
    files = ["runs/moe_quickstart.gin", "layouts/moe_2d_2x2.gin"]
    return _build(files, [*TINY, "--gin.NUM_LAYERS=1", "--gin.GROUP_SIZE=64"])


def test_the_layout_of_two_axes_splits_the_batch_over_both() -> None:
    training = _on_two_axes()
    shapes = training.experiment.feature_shapes(training.batch_size)
    mesh = training.experiment.mesh
    assert {mesh.partition(shape) for shape in shapes.values()} == {("model", "data", None)}


@pytest.mark.slow
def test_all_rules_of_the_layout_of_two_axes_are_used() -> None:
    training = _on_two_axes()
    training.compile_step()
    assert training.experiment.mesh.unused_rules() == []


MIXTURES_IN_T5 = """
include "models/t5.1.1.tiny.gin"

from __gin__ import dynamic_registration
from mtfrun.extras.mesh_tensorflow import zoo
from mtfrun.models import moe
from mtfrun.models import transformer

encoder/transformer.Stack.layers = [@transformer.SelfAttention, @moe.MoE1D]
decoder/transformer.Stack.layers = [
    @transformer.SelfAttention,
    @transformer.EncoderDecoderAttention,
    @moe.MoE2D,
]
moe.MoE1D.num_experts = 4
moe.MoE1D.router = @moe.Router
moe.MoE1D.experts = @moe.Experts
moe.Router.gate = @zoo.BatchPrioritized()
moe.Experts.hidden_size = %D_FF
moe.MoE2D.num_experts = (2, 3)
"""


def test_mixtures_go_into_the_layer_lists_of_any_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mixtures_in_t5.gin").write_text(MIXTURES_IN_T5)
    files = ["defaults.gin", str(tmp_path / "mixtures_in_t5.gin"), "data/number_words.gin"]
    shapes = {
        path: variable.shape.dimension_names
        for path, variable in _build(files, TINY).state.named_variables().items()
    }
    prefix = "model/{}_stack/blocks/1/{}/layer/experts/wo/kernel"
    assert shapes[prefix.format("encoder", "moe_1d")][0] == "experts"
    assert shapes[prefix.format("decoder", "moe_2d")][:2] == ["expert_y", "expert_x"]
