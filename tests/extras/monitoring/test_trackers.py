"""Trackers take the curves of a training, and never end it; MLflow and W&B without a network."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import importlib.util
import json
import pathlib
import re
import sqlite3
import sys
import threading
from collections.abc import Mapping

import pytest

from mtfrun.extras.monitoring import trackers
from mtfrun.metrics.curves import read_curves
from mtfrun.rundir import RunDirectory
from mtfrun.training import ScalarRecord
from mtfrun.training.hooks.hook import listener
from tests.cli.command import error_line, mtfrun, mtfrun_here, tiny_experiment

GIN = """
from __gin__ import dynamic_registration
from mtfrun import training
from mtfrun.extras.monitoring import trackers

training.TrainOptions.hooks = [@trackers.MLflow(), @trackers.WeightsAndBiases()]
trackers.MLflow.uri = "sqlite:///DIRECTORY/mlflow.db"
trackers.WeightsAndBiases.mode = "offline"
"""

# Rounding of the curves in TensorBoard.
FLOAT32 = 1e-6

needs_packages = pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("mlflow", "wandb")), reason="extras mlflow and wandb"
)


@pytest.mark.slow
@needs_packages
def test_a_run_and_its_resumption_are_one_run_of_every_tracker(tmp_path: pathlib.Path) -> None:
    (tmp_path / "trackers.gin").write_text(GIN.replace("DIRECTORY", str(tmp_path)))
    run = tmp_path / "run"
    flags = [*tiny_experiment(tmp_path), f"--gin_file={tmp_path}/trackers.gin"]
    flags += [f"--model_dir={run}", "--gin.Samples.prompts=[]"]
    for steps in (2, 4):
        process = mtfrun("train", *flags, f"--gin.TRAIN_STEPS={steps}", cwd=tmp_path)
        lines = process.stderr.decode()
        assert process.returncode == 0 and "gets no more records" not in lines, lines
    _check_mlflow(tmp_path, run)
    _check_weights_and_biases(run)


def _check_mlflow(directory: pathlib.Path, run: pathlib.Path) -> None:
    with sqlite3.connect(directory / "mlflow.db") as database:
        ((run_id, name, status, artifacts),) = database.execute(
            "select run_uuid, name, status, artifact_uri from runs"
        )
        points = database.execute("select key, step, value from metrics").fetchall()
        parameters = dict(database.execute("select key, value from params"))
        tags = dict(database.execute("select key, value from tags"))
    assert (name, status) == ("run", "FINISHED")
    assert json.loads((run / "trackers.json").read_text())["mlflow mtfrun"] == run_id
    for kind in ("train", "eval"):
        loss = {step: value for key, step, value in points if key == f"{kind}/loss"}
        assert loss == pytest.approx(read_curves(run / kind)["loss"], rel=FLOAT32)
        assert list(loss)[-2:] == ([3, 4] if kind == "train" else [2, 4])
    assert (parameters["TRAIN_STEPS"], tags["TRAIN_STEPS"]) == ("2", "4")
    stored = pathlib.Path(artifacts)
    names = {path.name for path in stored.iterdir()}
    assert {"config.gin", "operative_config.gin", "train.log", "evaluations.json"} <= names
    table = json.loads((stored / "evaluations.json").read_text())
    assert table["columns"][:2] == ["step", "loss"]
    assert [row[0] for row in table["data"]] == [0, 2, 4]
    assert "finished" in (stored / "report.html").read_text()


def _check_weights_and_biases(run: pathlib.Path) -> None:
    run_id = json.loads((run / "trackers.json").read_text())["wandb /mtfrun"]
    former, last = sorted((run / "wandb").glob(f"offline-run-*-{run_id}"))
    for directory, steps in ((former, [b"0", b"1", b"2"]), (last, [b"3", b"4"])):
        records = (directory / f"run-{run_id}.wandb").read_bytes()
        assert b"train/loss" in records and b"eval/loss" in records
        # A field of a record, its name and its value: (2, "step"), (16, "3").
        logged = re.findall(rb"\x12\x04step\x82\x01\x01(\d)", records)
        assert sorted(set(logged)) == steps
        names = {path.name for path in directory.rglob("*") if path.is_file()}
        assert {"config.gin", "operative_config.gin", "train.log"} <= names
        assert {"report", "evaluations"} <= {name.partition("_")[0] for name in names}


@pytest.mark.slow
@needs_packages
def test_a_service_that_is_not_there_does_not_end_a_training(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    text = GIN.replace("sqlite:///DIRECTORY/mlflow.db", "http://127.0.0.1:1")
    (tmp_path / "trackers.gin").write_text(text)
    flags = [*tiny_experiment(tmp_path), f"--gin_file={tmp_path}/trackers.gin"]
    flags += [f"--model_dir={tmp_path}/run", "--gin.TrainOptions.hooks=[@trackers.MLflow()]"]
    process = mtfrun("train", *flags, cwd=tmp_path)
    lines = process.stderr.decode()
    assert process.returncode == 0
    assert lines.count("MLflow gets no more records of this training: MlflowException") == 1


class _Refusal(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        user = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        answer = json.dumps({"error_code": "UNAUTHENTICATED", "message": f"nobody is {user}"})
        self.send_response(401)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
@needs_packages
@pytest.mark.parametrize("is_variable", [True, False])
def test_a_server_that_repeats_the_password_is_masked(
    is_variable: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), _Refusal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:secret@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        tracker = trackers.MLflow(uri=None if is_variable else url)
        with pytest.raises(Exception, match=r"UNAUTHENTICATED: nobody is me:\*\*\*$"):
            tracker.log(ScalarRecord(RunDirectory(tmp_path), 0, 1, {"train/loss": 1.0}))
        server.shutdown()


def test_a_missing_package_is_one_line_before_anything_is_trained(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as if it was not installed
    (tmp_path / "trackers.gin").write_text(GIN)
    flags = [*tiny_experiment(tmp_path), f"--gin_file={tmp_path}/trackers.gin"]
    process = mtfrun_here("train", *flags, f"--model_dir={tmp_path}/run")
    assert "MLflow needs the package mlflow-skinny: " in error_line(process)
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(eq=False)
class Listing(trackers.Tracker):
    """Keeps what it takes; it fails, or waits, at a step."""

    failing_step: int | None = None
    waits: threading.Event | None = None
    taken: list[tuple[int, int, Mapping[str, float]]] = dataclasses.field(default_factory=list)
    closed: int = 0

    def log(self, record: ScalarRecord) -> None:
        if record.step == self.failing_step:
            raise ConnectionError("no \x1b[31mroute\nto host")
        if self.waits is not None:
            self.waits.wait()
        self.taken.append((record.resumed_step, record.step, record.values))

    def close(self) -> None:
        self.closed += 1


def _track(directory: pathlib.Path, *listings: Listing) -> None:
    """Writes a point of a curve for each of four steps, and one of an evaluation."""
    run = RunDirectory(directory)
    for kind in ("train", "eval"):
        with run.summaries(kind, listener=listener(listings, run, 7, kind)) as summaries:
            for step in range(1, 5 if kind == "train" else 2):
                summaries.scalars({"loss": 1.0 / step}, step)
    for tracker in listings:
        tracker.end()


def test_a_tracker_takes_all_scalars_and_one_that_fails_is_closed_and_named_once(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failing, tracker, unused = Listing(failing_step=2), Listing(), Listing()
    _track(tmp_path, failing, tracker)
    assert capsys.readouterr().err.splitlines() == [
        "mtfrun: warning: Listing gets no more records of this training: "
        "ConnectionError: no \\x1b[31mroute to host"
    ]
    assert len(failing.taken) == 1 and failing.closed == 1
    curve = [(7, step, {"train/loss": 1.0 / step}) for step in range(1, 5)]
    assert tracker.taken == [*curve, (7, 1, {"eval/loss": 1.0})] and tracker.closed == 1
    unused.end()
    assert not unused.closed


def test_a_service_that_does_not_answer_does_not_keep_a_training_from_its_end(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Listing(waits=threading.Event())
    tracker.close_secs = 0.1
    _track(tmp_path, tracker)
    assert tracker.waits is not None
    tracker.waits.set()
    assert "it has not taken everything" in capsys.readouterr().err
