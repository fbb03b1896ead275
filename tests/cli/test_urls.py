"""Commands whose flags name runs at URLs."""

from __future__ import annotations

import pathlib
import uuid

import pytest

from mtfrun.checkpoints.manifest import Manifest, VariableSpec, manifest_text, record_file
from mtfrun.checkpoints.mirror import registry
from mtfrun.cli.main import main
from mtfrun.files import Store
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment


@pytest.fixture
def url(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "caches"))
    return f"memory://{uuid.uuid4().hex}/run"


def _make_run(url: str) -> None:
    with registry.writing(url) as name:
        folder = pathlib.Path(name, "checkpoints")
        folder.mkdir()
        names = ("ckpt-7.index", "ckpt-7.data-00000-of-00001")
        for file in names:
            (folder / file).write_text(file)
        files = {file: record_file(folder / file) for file in names}
        specs = {"model/x": VariableSpec((1,), "float32")}
        (folder / "ckpt-7.json").write_text(manifest_text(Manifest(7, "ckpt-7", specs, files, {})))


def test_checkpoints_at_a_url_are_listed_and_verified(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _make_run(url)
    assert main(["checkpoints", "list", f"--model_dir={url}"]) == 0
    assert main(["checkpoints", "verify", f"--model_dir={url}"]) == 0
    listed, verified = capsys.readouterr().out.splitlines()[1:]
    assert listed.split()[0] == "7" and "good" in listed
    assert verified.startswith("step 7: good, 2 files")


def test_an_error_names_the_url(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "list", f"--model_dir={url}"]) == 2
    assert f"no checkpoint in {url}/checkpoints: check the name" in capsys.readouterr().err


def test_a_command_that_needs_a_directory_refuses_a_url(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import", "--from=.", f"--model_dir={url}"]) == 2
    assert f"--model_dir={url}: import needs a local directory" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_at_a_url_is_trained_resumed_and_decoded(
    url: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tiny_experiment(tmp_path)
    succeeded(mtfrun_here("train", *experiment, f"--model_dir={url}"))
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "another machine"))
    resumed = mtfrun_here("train", *experiment, "--gin.TRAIN_STEPS=4", f"--model_dir={url}")
    assert "resuming from step 2 of 4" in resumed.stderr.decode()
    monkeypatch.setenv("MTFRUN_CACHE_DIR", str(tmp_path / "a third machine"))
    (answer,) = succeeded(mtfrun_here("decode", f"--model_dir={url}", "--prompt=a"))
    assert answer["step"] == 4
    files = Store(url).files()
    assert {"config.gin", "metrics.jsonl", "checkpoints/ckpt-4.json"} <= files.keys()
    assert {"commands/0001.json", "commands/0002.json", "commands/0003.json"} <= files.keys()
    begun = mtfrun_here(
        "train", *experiment, f"--gin.INIT_CHECKPOINT='{url}'", f"--model_dir={url}-second"
    )
    assert begun.returncode == 0 and "variables from" in begun.stderr.decode()


@pytest.mark.slow
def test_an_unknown_store_is_one_line(tmp_path: pathlib.Path) -> None:
    line = error_line(mtfrun_here("train", *tiny_experiment(tmp_path), "--model_dir=nope://a/run"))
    assert line.endswith("cannot open nope://a/run: Protocol not known: nope")
