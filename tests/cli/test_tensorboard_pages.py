"""TensorBoard's pages Images, Text, HParams and Projector of a run, with both of its loaders."""

from __future__ import annotations

import html
import io
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from mtfrun.display.pictures.canvas import HEIGHT, WIDTH
from mtfrun.rundir.tensorboard.hparams import Metric, record_hparams, write_hparams
from tests.cli.command import mtfrun_here, succeeded, tiny_experiment
from tests.cli.tensorboard_server import TensorBoard, serving

RATES = (0.01, 0.02)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of a mixture of experts with all pictures, its copy, and a description of both."""
    runs = tmp_path_factory.mktemp("runs")
    flags = tiny_experiment(tmp_path_factory.mktemp("texts"))
    flags[flags.index("--gin_file=models/lm_tiny.gin")] = "--gin_file=models/moe_2d_tiny.gin"
    first, second = (runs / f"rate_{rate}" for rate in RATES)
    command = [
        *flags,
        '--gin.Samples.prompts=["the |*", "<b>"]',
        "--gin.LayerPictures.num_tokens=16",
        "--gin.Projector.num_rows=100",
        "--gin.NUM_LAYERS=2",  # a mixture is in every second one
        f"--gin.LEARNING_RATE={RATES[0]}",
        *("--gin.MESH_SHAPE='data:2,model:1'", "--gin.GROUP_SIZE=128"),
        f"--model_dir={first}",
    ]
    succeeded(mtfrun_here("train", *command))
    shutil.copytree(first, second)
    with record_hparams(str(second), {"LEARNING_RATE": RATES[1]}):
        pass
    rates = [{"LEARNING_RATE": rate} for rate in RATES]
    write_hparams(str(runs), rates, [Metric("loss", "eval")])
    return runs


# test_tensorboard.py has the other loader by default.
@pytest.fixture(
    scope="module", params=["python", pytest.param("data server", marks=pytest.mark.slow)]
)
def server(runs: pathlib.Path, request: pytest.FixtureRequest) -> Iterator[TensorBoard]:
    with serving(runs, request.param) as server:
        server.wait_for("scalars/tags", {f"rate_{r}/{p}" for r in RATES for p in ("train", "eval")})
        yield server


def test_images_have_the_width_of_a_card(server: TensorBoard) -> None:
    tags = server.get("images/tags")
    assert set(tags["rate_0.01/train"]) == {"mesh"}
    names = set(tags["rate_0.01/eval"])
    assert {name.rpartition("/")[2] for name in names if "routing" in name} == {
        "2_experts",
        "8_experts",
    }
    assert names >= {
        "attention/decoder_layer_0",
        "attention/decoder_layer_1",
        "experts_of_tokens/level_1",
        "experts_of_tokens/level_2",
    }
    for run, of_run in (("rate_0.01/train", ["mesh"]), ("rate_0.01/eval", names)):
        for tag in of_run:
            images = server.get("images/images", run=run, tag=tag, sample="0")
            query = dict(part.split("=") for part in images[-1]["query"].split("&"))
            png = server.get_bytes("images/individualImage", **query)
            image = Image.open(io.BytesIO(png))
            assert image.width == WIDTH and 90 < image.height <= HEIGHT, tag


def test_samples_are_a_table_of_the_texts_as_they_are(server: TensorBoard) -> None:
    assert "samples" in server.get("text/tags")["rate_0.01/eval"]
    page = server.get("text/text", run="rate_0.01/eval", tag="samples")[-1]["text"]
    assert "<table>" in page and "<b>" not in page
    assert "<td>the |*</td>" in html.unescape(page) and "<td><b></td>" in html.unescape(page)


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
    assert hparams["D_MODEL"] == 16 and hparams["NUM_EXPERTS"] == "(2, 4)"
    assert hparams["Projector.num_rows"] == 100, "set by a flag"


def test_the_projector_has_the_vectors_and_the_names_of_ids(
    server: TensorBoard, runs: pathlib.Path
) -> None:
    config = server.get("projector/info", run="rate_0.01/eval")
    (table,) = config["embeddings"]
    assert table["tensorShape"] == [100, 16] and table["tensorName"] == "embedding/table"
    query: dict[str, Any] = {"run": "rate_0.01/eval", "name": "embedding/table"}
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
