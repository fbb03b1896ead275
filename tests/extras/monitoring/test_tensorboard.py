"""A real TensorBoard server shows a run on all of its pages, read by both of its loaders."""

from __future__ import annotations

import contextlib
import html
import io
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from mtfrun.display.pictures.canvas import HEIGHT, WIDTH
from mtfrun.extras.sweeps.hparams import begin_session, end_session, write_hparams
from tests.cli.command import mtfrun_here, succeeded, tiny_experiment

pytestmark = pytest.mark.slow

SETTINGS = """
from __gin__ import dynamic_registration
from mtfrun import experiment
from mtfrun.models import transformer
from mtfrun.extras.monitoring import histograms

experiment.Training.actions = [@histograms.Histograms()]
histograms.Histograms.every_steps = 2
transformer.StackTransforms.activation_scale = True
"""

RATES = (0.01, 0.02)
TRAIN, EVAL = "rate_0.01/train", "rate_0.01/eval"

MODEL = [
    "--gin.NUM_LAYERS=2",  # a mixture is in every second one
    *("--gin.MESH_SHAPE='data:2,model:1'", "--gin.GROUP_SIZE=128"),
]

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
_MIXTURE = "decoder/block_1/moe_2d"
OF_LAYERS = {
    *(f"activations/decoder/block_0/self_attention/{name}" for name in ("rms", "max")),
    *(
        f"moe/{_MIXTURE}/level_1/{name}"
        for name in ("dropped", "entropy", "balance_loss", "greatest_load", "least_load")
    ),
    f"moe_load/{_MIXTURE}/level_1/expert_1",
    f"moe_load/{_MIXTURE}/experts_per_token_1",
    *(f"activations/decoder/block_0/moe_2d/{name}" for name in ("rms", "max")),
}


# The two programs that read event files: TensorBoard's own, and the data server.
LOADERS = {"python": "--load_fast=false", "data server": "--load_fast=true"}


class TensorBoard:
    """TensorBoard's answers over HTTP."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}/data/plugin"

    def get_bytes(self, path: str, body: dict[str, Any] | None = None, /, **query: str) -> bytes:
        """Returns the content of a page; with a body, of a POST request."""
        url = f"{self._base}/{path}?{urllib.parse.urlencode(query)}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            content: bytes = response.read()
            return content

    def get(self, path: str, body: dict[str, Any] | None = None, /, **query: str) -> Any:
        """Returns the JSON of a page."""
        return json.loads(self.get_bytes(path, body, **query))

    def wait_for(self, path: str, runs: set[str]) -> Any:
        """Returns the JSON of a page about runs, once all of them are in it."""
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                page = self.get(path)
                if runs <= set(page):
                    return page
            time.sleep(0.25)
        raise AssertionError(f"TensorBoard never showed {runs}")


@contextlib.contextmanager
def serving(directory: pathlib.Path, loader: str) -> Iterator[TensorBoard]:
    """Runs TensorBoard on a directory, with one of `LOADERS`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tensorboard.main", "--logdir", str(directory)),
            *("--port", str(port), "--host=127.0.0.1", LOADERS[loader]),
        ],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield TensorBoard(port)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a model with all that is written on request, and its copy."""
    runs = tmp_path_factory.mktemp("runs")
    settings = tmp_path_factory.mktemp("gin") / "settings.gin"
    settings.write_text(SETTINGS)
    flags = tiny_experiment(tmp_path_factory.mktemp("texts"))
    flags[flags.index("--gin_file=models/lm_tiny.gin")] = "--gin_file=models/moe_2d_tiny.gin"
    first, second = (runs / f"rate_{rate}" for rate in RATES)
    command = [
        *flags,
        f"--gin_file={settings}",
        '--gin.Samples.prompts=["the |*", "<b>"]',
        *("--gin_file=extras/monitoring/pictures.gin", "--gin.PICTURE_TOKENS=16"),
        "--gin.Projector.num_rows=100",
        *MODEL,
        f"--gin.LEARNING_RATE={RATES[0]}",
        f"--model_dir={first}",
    ]
    succeeded(mtfrun_here("train", *command))
    shutil.copytree(first, second)
    end_session(begin_session(str(second), {"LEARNING_RATE": RATES[1]}), is_success=True)
    rates = [{"LEARNING_RATE": rate} for rate in RATES]
    write_hparams(str(runs), rates, {"loss": "loss"})
    return runs


@pytest.fixture(scope="module", params=LOADERS)
def server(runs: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[TensorBoard]:
    """A server with each of the two loaders."""
    with serving(runs, request.param) as server:
        server.wait_for("scalars/tags", {f"rate_{r}/{p}" for r in RATES for p in ("train", "eval")})
        yield server


def test_train_and_eval_have_the_same_tags_and_each_its_description(server: TensorBoard) -> None:
    tags = server.get("scalars/tags")
    assert set(tags[TRAIN]) >= OF_BOTH | OF_TRAINING | OF_LAYERS
    assert set(tags[EVAL]) >= OF_BOTH | OF_LAYERS | {"loss/bits_per_byte"}
    top = {tag for of_run in tags.values() for tag in of_run if "/" not in tag}
    assert top == {"loss", "accuracy", "learning_rate"}
    for of_run in tags.values():
        for tag, shown in of_run.items():
            assert "not of mtfrun" not in shown["description"], tag
            assert shown["displayName"] and len(shown["description"]) > 20, tag
    assert tags[TRAIN]["perf/host_memory_gb"]["displayName"] == "host memory (GB)"
    described = server.get("timeseries/tags")["scalars"]["tagDescriptions"]
    assert set(described) >= OF_BOTH | OF_TRAINING | OF_LAYERS


def test_evaluation_begins_before_the_first_step(server: TensorBoard) -> None:
    points = server.get("scalars/scalars", run=TRAIN, tag="loss")
    assert [step for _, step, _ in points] == [1, 2]
    points = server.get("scalars/scalars", run=EVAL, tag="loss/bits_per_byte")
    values = {step: value for _, step, value in points}
    assert list(values) == [0, 2] and values[0] != values[2]


def test_values_have_their_units(server: TensorBoard) -> None:
    def last(tag: str) -> float:
        value: float = server.get("scalars/scalars", run=TRAIN, tag=tag)[-1][2]
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
    for split in (TRAIN, EVAL):
        (tag,) = charts["Learning"]["loss"]
        page = server.get("custom_scalars/scalars", run=split, tag=tag)
        assert page["regex_valid"] and list(page["tag_to_events"]) == ["loss"]


def test_histograms_of_weights_gradients_and_loads(server: TensorBoard) -> None:
    tags = server.get("histograms/tags")[TRAIN]
    path = "decoder/block_0/self_attention/layer/attention/query"
    entries_by_tag = {f"weights/{path}": 16 * 4 * 4, f"gradients/{path}": 16 * 4 * 4}
    entries_by_tag[f"moe_load/{_MIXTURE}/level_1/load"] = 2
    for tag, entries in entries_by_tag.items():
        assert len(tags[tag]["description"]) > 20
        *_, (_, step, buckets) = server.get("histograms/histograms", run=TRAIN, tag=tag)
        assert step == 2 and sum(count for _, _, count in buckets) == entries


def test_configuration_command_and_samples_are_shown_as_text(server: TensorBoard) -> None:
    tags = server.get("text/tags")
    assert set(tags[TRAIN]) == {"config", "operative_config", "command"}
    assert tags[EVAL] == ["samples"]
    (config,) = server.get("text/text", run=TRAIN, tag="operative_config")
    assert "TrainOptions.train_steps = %TRAIN_STEPS" in config["text"]
    (command,) = server.get("text/text", run=TRAIN, tag="command")
    assert "mtfrun train --gin_file=defaults.gin" in command["text"]
    page = server.get("text/text", run=EVAL, tag="samples")[-1]["text"]
    assert "<table>" in page and "<b>" not in page
    assert "<td>the |*</td>" in html.unescape(page) and "<td><b></td>" in html.unescape(page)


def test_images_have_the_width_of_a_card(server: TensorBoard) -> None:
    tags = server.get("images/tags")
    assert set(tags[TRAIN]) == {"mesh"}
    names = set(tags[EVAL])
    assert "attention/decoder_layer_0" in names
    routing = {name.rpartition("/")[2] for name in names if "routing" in name}
    assert routing == {"2_experts", "8_experts"}
    assert names >= {
        "attention/decoder_layer_1",
        "experts_of_tokens/level_1",
        "experts_of_tokens/level_2",
    }
    for run, of_run in ((TRAIN, ["mesh"]), (EVAL, names)):
        for tag in of_run:
            images = server.get("images/images", run=run, tag=tag, sample="0")
            query = dict(part.split("=") for part in images[-1]["query"].split("&"))
            png = server.get_bytes("images/individualImage", **query)
            image = Image.open(io.BytesIO(png))
            assert image.width == WIDTH and 90 < image.height <= HEIGHT, tag


def test_hparams_have_the_values_and_the_metrics_of_all_runs(server: TensorBoard) -> None:
    experiment = server.get("hparams/experiment", {"experimentName": "", "includeMetrics": True})
    (info,) = experiment["hparamInfos"]
    assert (info["name"], info["domainDiscrete"]) == ("LEARNING_RATE", list(RATES))
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_SUCCESS"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 10,
    }
    groups = server.get("hparams/session_groups", body)["sessionGroups"]
    assert sorted(group["hparams"]["LEARNING_RATE"] for group in groups) == list(RATES)
    # A row begins with what tells it from the others.
    assert {group["name"].split(" in ")[0] for group in groups} == {f"rate_{r}" for r in RATES}
    for group in groups:
        (metric,) = group["metricValues"]
        run = f"{group['sessions'][0]['name']}/eval"
        assert metric["value"] == server.get("scalars/scalars", run=run, tag="loss")[-1][2]
    hparams = min((g["hparams"] for g in groups), key=lambda values: values["LEARNING_RATE"])
    assert hparams["D_MODEL"] == 16
    assert hparams["NUM_EXPERTS"] == "(2, 4)"
    assert hparams["Projector.num_rows"] == 100, "set by a flag"


def test_the_projector_has_the_vectors_and_the_names_of_ids(
    server: TensorBoard, runs: pathlib.Path
) -> None:
    config = server.get("projector/info", run=EVAL)
    (table,) = config["embeddings"]
    assert table["tensorShape"] == [100, 16] and table["tensorName"] == "embedding/table"
    query: dict[str, Any] = {"run": EVAL, "name": "embedding/table"}
    assert len(server.get_bytes("projector/tensor", num_rows="100", **query)) == 4 * 100 * 16
    names = server.get_bytes("projector/metadata", num_rows="101", **query).decode().splitlines()
    assert names[:4] == ["token\tid", "<pad>\t0", "</s>\t1", "<2>\t2"]
    assert names[1 + ord("A") + 3] == f"A\t{ord('A') + 3}"
    assert names[1 + ord(" ") + 3] == f"␣\t{ord(' ') + 3}"


def test_decodes_are_kept_as_json_lines(runs: pathlib.Path) -> None:
    files = {file.name: file for file in (runs / "rate_0.01" / "decodes").iterdir()}
    assert files.keys() == {"eval_2.jsonl"}  # the short evaluation before step 1 decodes nothing
    records = [json.loads(line) for line in files["eval_2.jsonl"].read_text().splitlines()]
    assert [record["input"] for record in records] == ["the |*", "<b>"]
    for record in records:
        assert record["split"] == "validation"
        assert record["outputs"][0]["text"] == record["output"] and record["outputs"][0]["score"]
