"""The package of docs/extending.md, installed: its command, layer, importer and exporter."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from mtfrun.experiment.conversion import values_of_run
from mtfrun.rundir import RunDirectory
from tests.cli.command import ROOT, environment, tiny_experiment
from tests.distributions import install

PAGE = (ROOT / "docs/extending.md").read_text()
# The files of the page by name.
BLOCKS = dict(re.findall(r'```\w+ title="(.*?)"\n(.*?)```', PAGE, re.DOTALL))
# Calls `mtfrun` several times in one process, which imports TensorFlow once.
_PROGRAM = """
import json, sys
from mtfrun.cli.main import main
for arguments in json.loads(sys.argv[1]):
    print("code", main(arguments), flush=True)
"""


@pytest.fixture
def site(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory of installed distributions: the page's."""
    project = tomllib.loads(BLOCKS["pyproject.toml"])["project"]
    install(tmp_path / "site", project["name"], project["entry-points"])
    for name, text in BLOCKS.items():
        (tmp_path / "site" / name).write_text(text)
    return tmp_path / "site"


def _run(site: pathlib.Path, *commands: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(commands)],
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
        cwd=site.parent,
        text=True,
        capture_output=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_a_format_of_another_distribution_is_written_and_read(
    language_model_run: pathlib.Path, site: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    toy, new = tmp_path / "toy", tmp_path / "new"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/text").touch()
    process = _run(
        site,
        ["export", f"--model_dir={language_model_run}", f"--to={toy}", "--format=toy"],
        ["import", f"--from={toy}", f"--model_dir={new}"],
        ["count", f"--model_dir={new}"],
        ["import", f"--from={tmp_path}/empty", f"--model_dir={tmp_path}/newer"],
    )
    lines = process.stdout.splitlines()
    codes = [line for line in lines if line.startswith("code")]
    assert codes == ["code 0"] * 3 + ["code 2"], process.stderr
    before, after = (values_of_run(RunDirectory(x)).values for x in (language_model_run, new))
    count = sum(value.size for value in before.values())
    assert f"{count} parameters" in lines
    assert before.keys() == after.keys()
    for path, value in before.items():
        np.testing.assert_array_equal(after[path], value)
    assert "no importer recognises it; those installed read " in process.stderr
    assert "a folder of toys (config.json, weights.npz)" in process.stderr


def test_a_flag_of_one_format_is_refused_with_another(site: pathlib.Path) -> None:
    flags = ["--model_dir=.", "--to=x", "--format=tensorflow", "--compressed"]
    (line,) = _run(site, ["export", *flags]).stderr.splitlines()
    assert line.endswith("--compressed is for --format=toy: leave it out")


def test_broken_formats_are_warnings_with_the_name_of_their_distribution(
    site: pathlib.Path,
) -> None:
    groups = ("importers", "exporters", "gin")
    install(site, "wrong", {f"mtfrun.{group}": {"other": "wrong.missing:A"} for group in groups})
    process = _run(site, ["import", "--help"])
    assert "a folder of toys (config.json, weights.npz)" in process.stdout
    for group, line in zip(groups, process.stderr.splitlines(), strict=False):
        assert "the distribution wrong has a broken entry point 'other'" in line and group in line


@pytest.mark.slow
def test_a_layer_of_another_distribution_is_trained_and_evaluated(
    site: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run = f"--model_dir={tmp_path / 'run'}"
    layer = f"--gin_file={site / 'scaled.gin'}"
    process = _run(site, ["train", *tiny_experiment(tmp_path), layer, run], ["eval", run])
    assert process.stdout.count("code 0") == 2, process.stderr
    scale = values_of_run(RunDirectory(tmp_path / "run")).values
    (factors,) = [value for path, value in scale.items() if path.endswith("scale/layer/scale")]
    np.testing.assert_allclose(factors, 0.5, atol=0.1)
