"""Run directories whose files are forged: one line or success, in time, victims untouched."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from mtfrun.checkpoints.manifest import _digest
from tests.cli.command import mtfrun_here, succeeded, tiny_experiment
from tests.faults.fuzzing import some_quick

pytestmark = pytest.mark.timeout(240, method="signal")

VICTIM = "untouched\n"

FORGERIES: dict[str, Callable[[pathlib.Path, pathlib.Path], object]] = {
    "a pipe": lambda path, _: os.mkfifo(path),
    "a directory": lambda path, _: path.mkdir(),
    "a link to a victim": lambda path, victim: path.symlink_to(victim),
    "a link to nothing": lambda path, victim: path.symlink_to(f"{victim}.none"),
    "a link to itself": lambda path, _: path.symlink_to(path),
    "a link to a device": lambda path, _: path.symlink_to("/dev/zero"),
    "no byte": lambda path, _: path.write_bytes(b""),
    "any bytes": lambda path, _: path.write_bytes(bytes(range(256)) * 40),
    "deep JSON": lambda path, _: path.write_bytes(b"[" * 100_000),
}
FILES = [
    "config.gin",
    "operative_config.gin",
    "commands/0001.json",
    "commands",
    ".lock",
    "import.json",
    "files.json",
    "train.log",
    "status.json",
    "metrics.jsonl",
    "checkpoints/ckpt-2.json",
    "checkpoints/ckpt-2.index",
    "checkpoints/ckpt-2.data-00000-of-00001",
    "checkpoints/checkpoint",
    "checkpoints/best.json",
    "checkpoints",
    "train",
    "eval",
]
# In the default suite.
QUICK = {(".lock", "a link to a victim")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, list[str]]:
    directory = tmp_path_factory.mktemp("hostile")
    flags = [*tiny_experiment(directory), "--gin.CHECKPOINT_EVERY=1"]
    flags += ["--gin.Evaluation.max_batches=1", "--gin.Evaluation.evaluators=[]"]
    succeeded(mtfrun_here("train", *flags, f"--model_dir={directory / 'run'}"))
    return directory / "run", flags


def check(arguments: list[str]) -> None:
    """Runs a command, which must end with success or one line."""
    process = mtfrun_here(*arguments)
    text = process.stderr.decode()
    assert process.returncode in (0, 2), text
    errors = [line for line in text.splitlines() if line.startswith("mtfrun: error: ")]
    assert len(errors) == (process.returncode == 2), text
    assert "Traceback" not in text
    assert all(line.isprintable() for line in text.splitlines())


def check_commands(run: pathlib.Path, flags: list[str]) -> None:
    """Evaluates and trains a run; the file `victim` beside it must stay as it is."""
    check(["eval", f"--model_dir={run}"])
    check(["train", *flags, f"--model_dir={run}", "--gin.TRAIN_STEPS=3"])
    assert (run.parent / "victim").read_text() == VICTIM
    assert sorted(path.name for path in run.parent.iterdir()) == ["run", "victim"]


@pytest.mark.parametrize(
    ("file", "forgery"),
    [
        pytest.param(file, name, marks=[] if (file, name) in QUICK else pytest.mark.slow)
        for i, file in enumerate(FILES)
        for j, name in enumerate(FORGERIES)
        # Every file in one way, every way for two files.
        if (i + j) % len(FORGERIES) == 0 or (file, name) in QUICK
    ],
)
def test_a_forged_file(
    file: str, forgery: str, trained: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    original, flags = trained
    run = tmp_path / "run"
    shutil.copytree(original, run)
    victim = tmp_path / "victim"
    victim.write_text(VICTIM)
    path = run / file
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    FORGERIES[forgery](path, victim)
    check_commands(run, flags)


FORGED: dict[str, dict[str, Any]] = {
    "a path out of the directory": {"files": {"../../victim": None}},
    "another checkpoint's file": {"files": {"ckpt-1.index": None}},
    "a prefix with a path": {"prefix": "../run/checkpoints/ckpt-2"},
    "a huge size of a file": {"files": {"ckpt-2.index": 2**62}},
    "a huge shape": {"shape": [2**40, 2**40]},
    "a shape of many dimensions": {"shape": [1] * 100_000},
    "a position that is huge": {"metadata": {"data_position": 2**62}},
    "a huge seed": {"metadata": {"seed": 2**200}},
    "sums that are no numbers": {"metadata": {"curve_sums": {"loss": "x"}}},
    "a configuration that is a list": {"metadata": {"configuration": [1]}},
    "versions with escapes": {"metadata": {"versions": {"\x1b[2J": "\x1b[31m"}}},
    "data that is a list": {"metadata": {"data": [1, 2]}},
    "a hash that is a list": {"metadata": {"data": {"vocabularies": {"targets": [1]}}}},
}


@pytest.mark.parametrize("name", some_quick(FORGED, []))
def test_a_forged_manifest_with_its_hash(
    name: str, trained: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    original, flags = trained
    run = tmp_path / "run"
    shutil.copytree(original, run)
    (tmp_path / "victim").write_text(VICTIM)
    path = run / "checkpoints/ckpt-2.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    change = FORGED[name]
    record = content["files"]["ckpt-2.index"]
    for file, size in change.get("files", {}).items():
        content["files"][file] = {**record, "bytes": size or record["bytes"]}
    variable = next(iter(content["variables"].values()))
    variable.update({key: change[key] for key in ("shape", "dtype") if key in change})
    content["prefix"] = change.get("prefix", content["prefix"])
    content["metadata"].update(change.get("metadata", {}))
    path.write_text(json.dumps({**content, "sha256": _digest(content)}))
    check_commands(run, flags)


NAMES = ["../../x/../y", "~nobody_here/x", "-rf", "\x1b[2J", "x" * 300, "/dev/null/x", "", "*"]
NAMES += ["a\x00b", "\udcff", "$(touch pwned)", "a/" * 3000]


@pytest.mark.parametrize("name", some_quick(NAMES, {"a\x00b"}))
def test_names_of_runs_and_outputs(
    name: str, trained: tuple[pathlib.Path, list[str]], tmp_path: pathlib.Path
) -> None:
    check(["eval", f"--model_dir={name}"])
    output = name if name.startswith("/") else f"{tmp_path}/{name}"
    prompt = ["decode", f"--model_dir={trained[0]}", "--prompt=a"]
    root = pathlib.Path(__file__).parents[2]
    before = sorted(root.iterdir())
    check([*prompt, "--gin.Decoding.decode_length=1", f"--output={output}"])
    assert sorted(root.iterdir()) == before
