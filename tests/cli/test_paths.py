"""Paths in flags are checked without TensorFlow, before anything is imported or computed."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun.cli.parser import parse_flags
from mtfrun.cli.paths import check_paths
from mtfrun.errors import InputError


def _check(typed: str) -> None:
    check_paths(parse_flags(typed.split()))


@pytest.fixture(autouse=True)
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a directory that has what the checks look at."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/adapters/prose").mkdir(parents=True)
    (tmp_path / "proses.sh").touch()
    (tmp_path / "run/checkpoints/ckpt-20.json").touch()
    (tmp_path / "prompts.txt").write_text("a prompt")
    (tmp_path / "nothing").mkdir()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("eval --model_dir=rum", "--model_dir rum is not a directory, did you mean 'run'?"),
        ("checkpoints list --model_dir=x", "--model_dir x is not a directory: check its name"),
        ("decode --model_dir=run --input=prompt.txt", "did you mean 'prompts.txt'?"),
        ("decode --model_dir=run --prompt=x --output=prompts.txt/x", "prompts.txt is not a dir"),
        ("export --model_dir=run --to=run --format=tensorflow", "--to=run is not empty"),
        ("checkpoints diff rum run", "rum is not a directory, did you mean 'run'?"),
        ("launch -n 2 --", "launch needs a command"),
        ("import --from=nothing --model_dir=new", "--from=nothing has no files"),
        ("checkpoints prune --model_dir=rum --keep=1", "did you mean 'run'?"),
        ("config explain none.gin", "none.gin"),
        ("import --from=/none --model_dir=new", "--from=/none: there is no such file"),
    ],
)
def test_a_wrong_path_is_refused(typed: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        _check(typed)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "typed",
    [
        "eval --model_dir=new --continuous",
        "decode --model_dir=run --prompt=x --output=new/directory/x",
        "decode --model_dir=run --input=split:test --output=out.jsonl",
        "decode --model_dir=run --input=*.png --checkpoint=20",
        "train --gin_file=x.gin --model_dir=new/run",
        "import --from=google/flan-t5-small --model_dir=new",
        "eval --model_dir=gs://bucket/run",
    ],
)
def test_paths_that_exist_later_or_elsewhere_are_accepted(typed: str) -> None:
    _check(typed)
