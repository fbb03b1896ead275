"""A real TensorBoard server shows the events of a run, read by both of its loaders."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

import pytest

from tests.cli.command import mtfrun_here, succeeded, tiny_experiment
from tests.cli.tensorboard_server import TensorBoard, serving

SETTINGS = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from mtfrun.models import transformer
from mtfrun.tools import histograms

experiment.Training.actions = [@histograms.Histograms()]
histograms.Histograms.every_steps = 2
transformer.StackTransforms.activation_scale = True
"""

OF_BOTH = {"loss", "accuracy", "loss/perplexity"}
OF_TRAINING = {
    "learning_rate",
    "loss/objective",
    "data/examples_seen",
    "data/padding_fraction",
    "perf/data_wait_fraction",
    "perf/device_fraction",
    "perf/host_fraction",
    "perf/host_memory_gb",
    "perf/model_tflop_per_sec",
    "perf/peak_fraction",
    "perf/steps_per_sec",
    "perf/tokens_per_sec",
    *(
        f"norm/{kind}{module}"
        for kind in ("gradient", "parameter", "update")
        for module in ("", "/decoder_stack", "/embedding", "/position")
    ),
}
_MIXTURE = "decoder/block_1/moe_1d"
OF_LAYERS = {
    *(
        f"moe/{_MIXTURE}/level_1/{name}"
        for name in ("dropped", "entropy", "balance_loss", "greatest_load", "least_load")
    ),
    f"moe_load/{_MIXTURE}/level_1/expert_3",
    f"moe_load/{_MIXTURE}/experts_per_token_1",
    *(
        f"activations/decoder/block_0/{layer}/{name}"
        for layer in ("self_attention", "moe_1d")
        for name in ("rms", "max")
    ),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two steps of a mixture of experts, with everything that is written on request."""
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = tmp_path_factory.mktemp("gin") / "settings.gin"
    settings.write_text(SETTINGS)
    flags = [
        *tiny_experiment(tmp_path_factory.mktemp("texts")),
        "--gin_file=models/moe_1d_tiny.gin",
        "--gin.NUM_LAYERS=2",  # a mixture is in every second one
        f"--gin_file={settings}",
        '--gin.Samples.prompts=["the "]',
    ]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={run}"))
    return run


# test_tensorboard_pages.py has the other loader by default.
@pytest.fixture(
    scope="module", params=["data server", pytest.param("python", marks=pytest.mark.slow)]
)
def server(run: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[TensorBoard]:
    """A server with one of the two loaders."""
    with serving(run, request.param) as server:
        server.wait_for("scalars/tags", {"train", "eval"})
        yield server


def test_train_and_eval_have_the_same_tags_and_each_its_description(server: TensorBoard) -> None:
    tags = server.get("scalars/tags")
    assert set(tags["train"]) >= OF_BOTH | OF_TRAINING | OF_LAYERS
    assert set(tags["eval"]) >= OF_BOTH | OF_LAYERS | {"loss/bits_per_byte"}
    top = {tag for of_run in tags.values() for tag in of_run if "/" not in tag}
    assert top == {"loss", "accuracy", "learning_rate"}
    for of_run in tags.values():
        for tag, shown in of_run.items():
            assert "not of mtfrun" not in shown["description"], tag
            assert shown["displayName"] and len(shown["description"]) > 20, tag
    assert tags["train"]["perf/host_memory_gb"]["displayName"] == "host memory (GB)"


def test_time_series_has_the_descriptions_too(server: TensorBoard) -> None:
    tags = server.get("timeseries/tags")["scalars"]
    assert set(tags["tagDescriptions"]) >= OF_BOTH | OF_TRAINING | OF_LAYERS


def test_evaluation_begins_before_the_first_step(server: TensorBoard) -> None:
    points = server.get("scalars/scalars", run="train", tag="loss")
    assert [step for _, step, _ in points] == [1, 2]
    points = server.get("scalars/scalars", run="eval", tag="loss/bits_per_byte")
    values = {step: value for _, step, value in points}
    assert list(values) == [0, 2] and values[0] != values[2]


# By default test_best_checkpoint.py compares a loss of training with what `eval` prints.
@pytest.mark.slow
def test_a_value_is_that_which_eval_prints(server: TensorBoard, run: pathlib.Path) -> None:
    *_, (_, step, value) = server.get("scalars/scalars", run="eval", tag="loss/bits_per_byte")
    (printed,) = succeeded(mtfrun_here("eval", f"--model_dir={run}"))
    assert printed["step"] == step == 2
    assert value == pytest.approx(printed["bits_per_byte"], rel=1e-5)


def test_values_have_their_units(server: TensorBoard) -> None:
    def last(tag: str) -> float:
        value: float = server.get("scalars/scalars", run="train", tag=tag)[-1][2]
        return value

    shares = [last(f"perf/{name}_fraction") for name in ("data_wait", "device", "host")]
    assert min(shares) >= 0 and sum(shares) == pytest.approx(1.0, abs=1e-5)
    assert 0.05 < last("perf/host_memory_gb") < 100
    assert 0 < last("perf/peak_fraction") < 1
    whole, *modules = (
        last(f"norm/parameter{name}") for name in ("", "/decoder_stack", "/embedding", "/position")
    )
    assert whole**2 == pytest.approx(sum(x**2 for x in modules), rel=1e-4)


def test_custom_charts_overlay_training_and_evaluation(server: TensorBoard) -> None:
    layout = server.get("custom_scalars/layout")
    charts = {
        category["title"]: {
            chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]
        }
        for category in layout["category"]
    }
    assert list(charts) == ["Learning", "Mixture of experts", "Norms", "Activations", "Speed"]
    assert charts["Learning"].keys() >= {"loss", "accuracy", "learning rate", "perplexity"}
    # Every curve of every run is in a chart, but for what only the page Scalars has.
    patterns = [tag for category in charts.values() for (tag,) in category.values()]
    for of_run in server.get("scalars/tags").values():
        drawn = {tag for tag in of_run if any(re.match(pattern, tag) for pattern in patterns)}
        others = {tag for tag in of_run if tag not in drawn}
        assert all(
            tag.startswith(("data/", "loss/objective", "perf/steps"))
            or "/experts_per_token_" in tag
            for tag in others
        )
    for split in ("train", "eval"):
        (tag,) = charts["Learning"]["loss"]
        page = server.get("custom_scalars/scalars", run=split, tag=tag)
        assert page["regex_valid"] and list(page["tag_to_events"]) == ["loss"]


def test_histograms_of_weights_gradients_and_loads(server: TensorBoard) -> None:
    tags = server.get("histograms/tags")["train"]
    path = "decoder/block_0/self_attention/layer/attention/query"
    for tag, entries in (
        (f"weights/{path}", 16 * 4 * 4),
        (f"gradients/{path}", 16 * 4 * 4),
        (f"moe_load/{_MIXTURE}/level_1/load", 8),
    ):
        assert len(tags[tag]["description"]) > 20
        *_, (_, step, buckets) = server.get("histograms/histograms", run="train", tag=tag)
        assert step == 2 and sum(count for _, _, count in buckets) == entries


def test_configuration_command_and_samples_are_shown_as_text(server: TensorBoard) -> None:
    tags = server.get("text/tags")
    assert set(tags["train"]) == {"config", "operative_config", "command"}
    assert tags["eval"] == ["samples"]
    (config,) = server.get("text/text", run="train", tag="operative_config")
    assert "TrainOptions.train_steps = %TRAIN_STEPS" in config["text"]
    (command,) = server.get("text/text", run="train", tag="command")
    assert "mtfrun train --gin_file=defaults.gin" in command["text"]
    samples = server.get("text/text", run="eval", tag="samples")
    assert "<td>the</td>" in samples[0]["text"]
