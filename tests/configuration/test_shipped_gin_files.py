"""Every shipped gin file parses, and builds in a tiny size."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mtfrun import mtf
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration import config
from mtfrun.configuration.files import SHIPPED, find_gin_file, shipped_gin_files
from mtfrun.data.sources.tfds_dataset import silent_tfds
from mtfrun.errors import ConfigError
from mtfrun.experiment import Training
from mtfrun.experiment.runs.opening import build
from mtfrun.experiment.runs.settings import ROOTS
from tests.cli.command import TINY
from tests.cli.small_vocabulary import FILES_WITH_SUBWORDS, SIZE, flag_of_small_vocabulary

# The sweeps and the recipes of tasks have tests of their own.
FILES = [name for name in shipped_gin_files() if not name.startswith(("sweeps/", "tasks/"))]
BASE = ["defaults.gin", "models/lm_tiny.gin", "data/python_docs.gin"]
PAIRS_BASE = ["defaults.gin", "models/t5.1.1.tiny.gin", "data/number_words.gin"]
ROWS_OF_PAIRS_BASE = [
    "defaults.gin",
    "models/prefix_lm.gin",
    "data/number_words.gin",
    "data/delimited_pairs.gin",
]
FILES_OF_OBJECTIVES = {
    **{
        f"data/{name}.gin": ["defaults.gin", "models/t5.1.1.tiny.gin", "data/python_docs.gin"]
        for name in ("span_corruption", "prefix_lm_objective", "ul2")
    },
    "data/delimited_denoising.gin": [
        *("defaults.gin", "models/prefix_lm.gin", "data/python_docs.gin"),
        "data/prefix_lm_objective.gin",
    ],
    **{
        f"data/{name}.gin": ["runs/masked_lm.gin"]
        for name in ("masked_lm", "spans", "token_classification")
    },
    "data/text_classification.gin": ["runs/masked_lm.gin", "data/tsv_pairs.gin"],
    "data/text_regression.gin": ["runs/masked_lm.gin", "data/text_classification.gin"],
    "data/text_multi_label.gin": ["runs/masked_lm.gin", "data/text_classification.gin"],
    "data/text_pair_classification.gin": ["runs/masked_lm.gin", "data/text_classification.gin"],
    **{
        f"models/{name}.gin": ["runs/masked_lm.gin"]
        for name in ("encoder_only", "bert", "roberta", "distilbert", "modernbert")
    },
}
# The targets of inputs of 32 tokens, in addition to these.
TARGETS_OF_OBJECTIVES = {
    "data/span_corruption.gin": 8,
    "runs/denoise.gin": 8,
    "data/prefix_lm_objective.gin": 32,
    "data/ul2.gin": 20,
}
IMAGE_BASE = ["defaults.gin", "models/resnet.gin", "data/digits.gin"]
IMAGE_FILES = [
    "data/digits.gin",
    "data/idx_images.gin",
    "data/image_folders.gin",
    "data/tfds_images.gin",
    "layouts/spatial_2x2.gin",
    *(f"models/{name}.gin" for name in ("convnext", "resnet", "resnet50", "resnet_seed", "vit")),
    "runs/cifar10.gin",
    "runs/digits.gin",
    "runs/fashion_mnist.gin",
    "runs/imagenette.gin",
]
SEGMENTATION_FILES = {
    "models/unet.gin": ["defaults.gin", "models/unet.gin", "data/shapes.gin"],
    "data/shapes.gin": ["defaults.gin", "models/unet.gin", "data/shapes.gin"],
    "data/mask_folders.gin": ["defaults.gin", "models/unet.gin", "data/mask_folders.gin"],
    "runs/shapes.gin": ["runs/shapes.gin"],
    "runs/volumes.gin": ["runs/volumes.gin"],
}
# Models of the values of pixels.
PIXEL_FILES = {
    "models/class_conditional.gin": ["runs/digit_pixels.gin", "models/class_conditional.gin"],
    "models/image_transformer.gin": ["runs/digit_pixels.gin"],
    "models/t2t_image_transformer.gin": [
        *("defaults.gin", "models/t2t_image_transformer.gin", "data/digits.gin"),
    ],
    "runs/digit_pixels.gin": ["runs/digit_pixels.gin"],
}

SIZES_OF_IMAGE_MODELS = {
    "models/convnext.gin": ["--gin.STAGE_SIZES=[1,1]", "--gin.WIDTHS=[4,8]"],
    "models/vit.gin": [
        f"--gin.{name}={size}"
        for name, size in (
            ("NUM_LAYERS", 1),
            ("D_MODEL", 8),
            ("D_FF", 8),
            ("NUM_HEADS", 2),
            ("D_KV", 4),
        )
    ],
}

FILES_OF_PAIRS = [
    "data/jsonl_pairs.gin",
    "data/libreoffice_help.gin",
    "data/number_tasks.gin",
    "data/number_words.gin",
    "data/parquet_pairs.gin",
    "data/tfds_pairs.gin",
    "data/tsv_pairs.gin",
    "data/wordnet.gin",
]
OTHER_MODELS_OF_PAIRS = [
    f"models/{name}.gin"
    for name in ("bart", "evolved_transformer", "longt5", "marian", "pegasus", "umt5")
]


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
    assert {path.partition("/")[0] for path in shipped_gin_files()} == {
        "adapters",
        "defaults.gin",
        "models",
        "data",
        "extras",
        "layouts",
        "optimizers",
        "runs",
        "schedules",
        "sweeps",
        "tasks",
        "teachers",
    }


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


# TFDS has no types.
class _OneImage(tfds.core.GeneratorBasedBuilder):  # type: ignore[misc]
    """A dataset of one image of the size of CIFAR-10's."""

    name = "one_image"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        """An image and a label."""
        image = tfds.features.Image(shape=(32, 32, 3))
        label = tfds.features.ClassLabel(num_classes=10)
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        """One split."""
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields a black image."""
        yield 0, {"image": np.zeros([32, 32, 3], np.uint8), "label": 0}


@pytest.mark.parametrize("name", IMAGE_FILES)
def test_a_shipped_file_of_images_builds_tiny(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with silent_tfds():
        _OneImage(data_dir=str(tmp_path)).download_and_prepare()
    images = ["data/tfds_images.gin"]
    flags = ["--gin.TFDS_NAME='one_image'", "--gin.BATCH_SIZE=8"]
    if name in ("runs/cifar10.gin", "runs/imagenette.gin"):
        files = [name]
    elif name == "data/image_folders.gin":
        for i in range(10):
            (tmp_path / "images" / str(i)).mkdir(parents=True)
        files = ["defaults.gin", "models/resnet50.gin", name]
        flags = [f"--gin.IMAGES_DIR='{tmp_path}/images'", "--gin.BATCH_SIZE=8"]
    elif name in ("data/idx_images.gin", "runs/fashion_mnist.gin"):
        header = bytes([0, 0, 8, 3, *(0, 0, 0, 1, 0, 0, 0, 28), *(0, 0, 0, 28)])
        (tmp_path / "train-images-idx3-ubyte").write_bytes(header + bytes(28 * 28))
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 1, 5]))
        files = [name] if name.startswith("runs/") else [*IMAGE_BASE[:2], name]
        flags = [f"--gin.IMAGES_DIR='{tmp_path}'", "--gin.BATCH_SIZE=8"]
    elif name == "runs/digits.gin":
        files, flags = [name], ["--gin.BATCH_SIZE=8"]
    elif name.startswith("models/") and name != "models/resnet.gin":
        files = ["defaults.gin", name, *images]
        flags += SIZES_OF_IMAGE_MODELS.get(name, [])
    elif name == "data/tfds_images.gin":
        files = [*IMAGE_BASE[:2], name]
    elif name.startswith("layouts/"):
        files, flags = [*IMAGE_BASE, name], ["--gin.BATCH_SIZE=8"]
    else:
        files, flags = IMAGE_BASE, ["--gin.BATCH_SIZE=8"]
    training = _build(files, flags)
    variables = training.state.named_variables()
    assert training.tokens_per_step == 8
    assert variables["model/softmax/bias"].shape.to_string == "classes:10"


@pytest.mark.parametrize("name", SEGMENTATION_FILES)
def test_a_shipped_file_of_segmentation_builds_tiny(name: str) -> None:
    classes = ["--gin.CLASSES=['background', 'cell']"] * (name == "data/mask_folders.gin")
    sizes = "[4, 8, 8]" if name == "runs/volumes.gin" else "[8, 8]"
    flags = ["--gin.BATCH_SIZE=8", "--gin.WIDTHS=[2, 4]", f"--gin.SIZES={sizes}", *classes]
    training = _build(SEGMENTATION_FILES[name], flags)
    assert training.tokens_per_step == 8
    bias = training.state.named_variables()["model/softmax/bias"]
    assert bias.shape.to_string == f"classes:{2 if classes else 4}"


@pytest.mark.parametrize("name", PIXEL_FILES)
def test_a_shipped_file_of_pixels_builds_tiny(name: str) -> None:
    sizes = {"IMAGE_ROWS": 8, "IMAGE_COLS": 8, "IMAGE_CHANNELS": 1, "SEQUENCE_LENGTH": 64}
    training = _build(PIXEL_FILES[name], [*TINY, *(f"--gin.{k}={v}" for k, v in sizes.items())])
    assert training.tokens_per_step == 8 * 64
    table = training.state.named_variables()["model/embedding/table"]
    assert table.shape.to_string == "vocab:256;d_model:16"


@pytest.mark.parametrize("by_flag", [False, True])
def test_a_file_or_a_flag_may_give_a_class_its_other_name(
    tmp_path: pathlib.Path, *, by_flag: bool
) -> None:
    file = tmp_path / "a.gin"
    imports = "from __gin__ import dynamic_registration\nfrom mtfrun import layers\n"
    file.write_text(f"{imports}layers.LayerNorm.epsilon = 0.25\n")
    files = ["defaults.gin", "models/vit.gin", "data/digits.gin"]
    flags = [*SIZES_OF_IMAGE_MODELS["models/vit.gin"], "--gin.PATCH_SIZE=4"]
    if by_flag:
        training = _build(files, [*flags, "--gin.layers.LayerNorm.epsilon=0.25"])
    else:
        training = _build([*files, str(file)], flags)
    assert "epsilon = 0.25" in config.config_text()
    assert training.tokens_per_step == 32


def _files_with(name: str) -> list[str]:
    """Returns the files of an experiment on text that has this file."""
    if name.startswith("runs/"):
        return [name]
    if name in FILES_OF_OBJECTIVES:
        return [*FILES_OF_OBJECTIVES[name], name]
    if name in ("models/prefix_lm.gin", "data/delimited_pairs.gin"):
        return ROWS_OF_PAIRS_BASE
    if name == "data/task_feature_lengths.gin":
        return [*PAIRS_BASE, name]
    if name == "data/pairs.gin":
        return [*PAIRS_BASE, name]
    folder = name.partition("/")[0] + "/"
    of_pairs = name.startswith(
        (
            "models/t5",
            "models/t2t_transformer",
            "models/t2t_paper_translation",
            "models/t2t_bitransformer",
            "models/encoder_decoder",
        )
    )
    of_pairs |= name in OTHER_MODELS_OF_PAIRS
    if of_pairs or name in FILES_OF_PAIRS:
        return [name if file.startswith(folder) else file for file in PAIRS_BASE]
    if folder == "models/":
        return [name if file.startswith(folder) else file for file in BASE]
    return [*BASE, name]


# A teacher is a run: tests/cli/test_distillation.py trains a student of one.
TEACHERS = [name for name in FILES if name.startswith("teachers/")]


@pytest.mark.parametrize(
    "name",
    sorted(
        {*FILES}
        - {*IMAGE_FILES, *SEGMENTATION_FILES, *PIXEL_FILES, *FILES_WITH_SUBWORDS, *TEACHERS}
    ),
)
def test_a_shipped_file_builds_tiny(name: str) -> None:
    files = _files_with(name)
    row, flags = 32, TINY
    if "data/delimited_pairs.gin" in files or name == "runs/number_words_lm.gin":
        row, flags = 80, [*TINY, "--gin.SEQUENCE_LENGTH=80"]
    elif name == "data/task_feature_lengths.gin":
        row = 512 + 114
    elif name == "data/pairs.gin":
        row = 128 + 128
    elif "data/number_words.gin" in files or name == "runs/number_words.gin":
        row = 8 + 66
    elif name == "data/number_tasks.gin":
        row = 66 + 66
    elif name in FILES_OF_PAIRS:
        row = 128 + 128
    row += TARGETS_OF_OBJECTIVES.get(name, 0)
    training = _build(files, flags)
    variables = training.experiment.model.named_variables()
    assert variables["embedding/table"].shape.to_string == "vocab:384;d_model:16"
    assert training.tokens_per_step == 8 * row


@pytest.mark.parametrize("name", FILES_WITH_SUBWORDS)
def test_a_shipped_file_with_subwords_builds_tiny(name: str, tmp_path: pathlib.Path) -> None:
    files = [*PAIRS_BASE, name] if name.startswith("data/") else [name]
    flags = [*TINY, flag_of_small_vocabulary(tmp_path)]
    training = _build(files, flags)
    variables = training.state.named_variables()
    extra_ids = 100 if name == "data/sentencepiece.gin" else 0
    vocab, d_model = variables["model/embedding/table"].shape
    assert vocab.size == -(-(SIZE + extra_ids) // 128) * 128 and d_model.size == 16


def test_any_decoder_only_model_becomes_a_prefix_language_model() -> None:
    files = [name.replace("prefix_lm", "moe_1d_tiny") for name in ROWS_OF_PAIRS_BASE]
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


@pytest.mark.parametrize(
    ("first", "second", "flags"),
    [
        (["runs/denoise.gin"], ["runs/number_words.gin"], ["--gin.SEQUENCE_LENGTH=128"]),
        (
            ["runs/masked_lm.gin"],
            ["runs/masked_lm.gin", "data/tsv_pairs.gin", "data/text_classification.gin"],
            [],
        ),
    ],
)
def test_a_pretrained_model_has_the_variables_of_the_one_that_begins_with_it(
    first: list[str], second: list[str], flags: list[str]
) -> None:
    shapes = [
        {
            path: variable.shape
            for path, variable in _build(files, flags).state.model.named_variables().items()
        }
        for files in (first, second)
    ]
    assert shapes[0] == shapes[1]


def test_the_default_layout_splits_what_it_names() -> None:
    training = _build(BASE, [*TINY, "--gin.MESH_SHAPE='data:2,model:2'"])
    assert training.experiment.mesh.unused_rules() == []


def test_the_small_model_is_that_of_the_benchmark() -> None:
    training = _build(["defaults.gin", "models/lm_small.gin", "data/python_docs.gin"], [])
    variables = training.state.model.named_variables()
    path = "decoder_stack/blocks/3/"
    assert variables[path + "feed_forward/layer/wi/kernel"].shape.to_string == (
        "d_model:256;d_ff:1024"
    )
    assert variables[path + "self_attention/layer/attention/query"].shape.to_string == (
        "d_model:256;heads:4;d_kv:64"
    )
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
    assert {path for path in inside if not path.startswith("layer/")} == {
        "norm_0/scale",
        "norm_0/bias",
        "norm_1/scale",
        "norm_1/bias",
    }


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
    """Returns a training of mixtures of two levels on two times two devices."""
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
moe.Router.gate = @moe.BatchPrioritized()
moe.Experts.hidden_size = %D_FF
moe.MoE2D.num_experts = (2, 3)
moe.MoE2D.dispatch = @moe.EinsumDispatch()
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
