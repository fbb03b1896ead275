"""Malicious directories of imported runs: one line of error, and no file beside the target."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from mtfrun.extras.huggingface.safetensors_file import file_content
from tests.cli.command import error_line, mtfrun_here
from tests.extras.huggingface.changes import Change, replace, update, write
from tests.extras.huggingface.imported_models import FOLDERS, imported_folder

SECRET = "the secret of somebody"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Imported runs: one with several files and a tokenizer, one with stored tensors."""
    directory = tmp_path_factory.mktemp("imported")
    paths = {}
    for name in ("llama", "resnet_basic"):
        folder = directory / name
        shutil.copytree(FOLDERS / name, folder)
        (folder / "special_tokens_map.json").write_text("{}")
        paths[name] = imported_folder(name, folder).run
    return paths


def _record(change: Callable[[dict[str, Any]], object]) -> Change:
    """Returns a change of import.json, called with its content."""

    def forge(run: pathlib.Path) -> None:
        record = json.loads((run / "import.json").read_text())
        change(record)
        (run / "import.json").write_text(json.dumps(record))

    return forge


def _entry(name: str, value: object) -> Change:
    return update("import.json", **{name: value})


def _shard(name: str) -> Change:
    """Returns a change of the name of the first file of weights only."""

    def rename(record: dict[str, Any]) -> None:
        first, *others = record["shards"].items()
        record["shards"] = {name: first[1], **dict(others)}

    return _record(rename)


def _first_tensors(change: Callable[[dict[str, Any]], object]) -> Change:
    return _record(lambda record: change(next(iter(record["shards"].values()))))


def _link(target: str) -> Callable[[pathlib.Path], object]:
    """Returns a function that makes a link to a path relative to the directory above the run."""
    return lambda path: path.symlink_to(os.path.join(path.parents[1], target))  # noqa: PTH118


def _linked_directory(name: str) -> Change:
    def forge(run: pathlib.Path) -> None:
        (run / name).rename(run / "elsewhere")
        (run / name).symlink_to("elsewhere")

    return forge


def _rename_in_index(run: pathlib.Path) -> None:
    path = run / "origin/model.safetensors.index.json"
    path.write_text(path.read_text().replace("model-00001", "../model-00001"))


def _sparse(path: pathlib.Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


LLAMA: dict[str, tuple[Change, str]] = {
    "a name above of weights": (_shard("../victim.safetensors"), "is not a name of a file"),
    "a name of another file": (_shard("config.json"), "is not a name of a file of tensors"),
    "a name with a line break": (_shard("a\nb.safetensors"), "is not a name of a file of tensors"),
    "a list": (write("import.json", "[]"), "is not a JSON object"),
    "nothing": (write("import.json", ""), "is not JSON: "),
    "a pipe": (replace("import.json", os.mkfifo), "import.json: Not a regular file"),
    "a device": (replace("import.json", _link("/dev/zero")), "not a regular file but a link"),
    "a huge record": (replace("import.json", _sparse), "it has more than"),
    "no format": (_record(lambda record: record.pop("format")), "its format is None"),
    "an unknown format": (_entry("format", "x"), "its format is 'x'"),
    "no source": (_entry("from", None), "'from' is not a text"),
    "no metadata": (_record(lambda record: record.pop("metadata")), "'metadata' has other"),
    "metadata of numbers": (_entry("metadata", {"format": 1}), "'metadata' has other values"),
    "copies that are a list": (_entry("copies", []), "'copies' has other values"),
    "a copy of nothing": (_entry("copies", {"a": "b"}), "'a' is not a copy of a tensor"),
    "no shards": (_entry("shards", {}), "'shards' are not files"),
    "shards of numbers": (_entry("shards", {"a.safetensors": 1}), "has other values than texts"),
    "shards without tensors": (_entry("shards", {"a.safetensors": {}}), "names other files"),
    "an unknown type": (
        _first_tensors(lambda t: t.update(a="F31")),
        "'a' has no type of safetensors",
    ),
    "a tensor too many": (_first_tensors(lambda t: t.update(a="F32")), "unknown to config.json"),
    "a tensor less": (_first_tensors(lambda t: t.popitem()), "names other files"),
    "integers": (
        _first_tensors(lambda t: t.update(dict.fromkeys(t, "I8"))),
        "another dtype than floats",
    ),
    "an index of other files": (_rename_in_index, "names other files than import.json"),
    "an index of no names": (
        write("origin/model.safetensors.index.json", '{"weight_map": {"lm_head.weight": {}}}'),
        "names other files than import.json",
    ),
    "no configuration": (replace("origin/config.json", lambda path: None), "config.json: No such"),
    "a configuration that is a list": (write("origin/config.json", "[]"), "is not a JSON object"),
    "other settings that are a list": (write("origin/generation_config.json", "[]"), "JSON obj"),
    "a tokenizer's settings": (write("tokenizer/tokenizer_config.json", "{"), "is not JSON"),
    "a link to a secret": (replace("origin/config.json", _link("secret")), "but a link"),
    "a link of the tokenizer": (
        replace("tokenizer/special_tokens_map.json", _link("secret")),
        "not a regular file but a link",
    ),
    "a further file of the tokenizer": (
        lambda run: (run / "tokenizer/spiece.model").symlink_to("/dev/zero"),
        "not a regular file but a link",
    ),
    "a link of the imported configuration": (
        replace("origin/imported.gin", _link("secret")),
        "not a regular file but a link",
    ),
    "a huge file of the tokenizer": (replace("tokenizer/vocab.json", _sparse), "it has more than"),
    "a linked directory": (_linked_directory("origin"), "is a link, or not a directory"),
    "a linked tokenizer": (_linked_directory("tokenizer"), "is a link, or not a directory"),
    "no origin": (replace("origin", lambda path: None), "config.json: No such file"),
    "another model": (update("origin/config.json", model_type="resnet"), "architectures="),
    "other sizes": (update("origin/config.json", hidden_size=2**30), ""),
    "no heads": (update("origin/config.json", num_attention_heads=[]), "num_attention_heads=[]"),
    "more layers": (update("origin/config.json", num_hidden_layers=10**9), "is more than"),
}
KEPT = "origin/kept.safetensors"
RESNET: dict[str, tuple[Change, str]] = {
    "no kept tensors": (replace(KEPT, lambda path: None), "the run has no values of"),
    "a link to kept tensors": (replace(KEPT, _link("secret")), "not a regular file but a link"),
    "kept tensors that are none": (write(KEPT, b"1234"), "in a file of 4"),
    "other kept tensors": (write(KEPT, b"".join(file_content({}, {}))), "the run has no values of"),
    "a size of channels": (update("origin/config.json", num_channels=2**30), ""),
}


def _copied(run: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """Returns a copy of a run beside a secret."""
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "secret").write_text(SECRET)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("model", "name"),
    [*(("llama", name) for name in LLAMA), *(("resnet_basic", name) for name in RESNET)],
)
def test_a_forged_record_is_not_exported(
    model: str, name: str, runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    run = _copied(runs[model], tmp_path)
    change, message = (LLAMA if model == "llama" else RESNET)[name]
    change(run)
    flags = [f"--model_dir={run}", f"--to={tmp_path / 'x' / 'target'}", "--format=huggingface"]
    process = mtfrun_here("export", *flags)
    if message:
        line = error_line(process)
        assert message.lower() in line.lower() and SECRET not in line and len(line) < 500
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "secret"]
    else:
        assert process.returncode in (0, 2), process.stderr.decode()


@pytest.mark.slow
def test_a_training_from_a_run_with_a_forged_record_is_not_exported(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    source = _copied(runs["llama"], tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(f"{i} 5 6" for i in range(3, 153)))
    flags = [
        *(f"--gin_file={source / 'config.gin'}", "--gin_file=data/text_files.gin"),
        *(f"--gin.TEXT_FILES='{tmp_path / 'texts.txt'}'", "--gin.SEQUENCE_LENGTH=16"),
        *("--gin.BATCH_SIZE=8", "--gin.TRAIN_STEPS=1", f"--gin.INIT_CHECKPOINT='{source}'"),
        "--gin.IdVocabulary.end_id=1",
    ]
    (source / "origin/generation_config.json").rename(tmp_path / "settings")
    (source / "origin/generation_config.json").symlink_to(tmp_path / "secret")
    line = error_line(mtfrun_here("train", *flags, f"--model_dir={tmp_path / 'refused'}"))
    assert "origin/generation_config.json: Not a regular file but a link" in line
    (tmp_path / "settings").rename(source / "origin/generation_config.json")
    _shard("../../victim.safetensors")(source)
    trained = mtfrun_here("train", *flags, f"--model_dir={tmp_path / 'new'}")
    assert trained.returncode == 0, trained.stderr.decode()
    export = ["export", f"--model_dir={tmp_path / 'new'}", "--format=huggingface"]
    line = error_line(mtfrun_here(*export, f"--to={tmp_path / 'x' / 'target'}"))
    assert "is not a name of a file of tensors" in line
    assert not list(tmp_path.rglob("victim*")) and not (tmp_path / "x").exists()


def test_an_average_of_a_run_with_a_forged_record_is_refused(
    runs: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    run = _copied(runs["llama"], tmp_path)
    average = ["checkpoints", "average", f"--model_dir={run}", "--last=1"]
    good = mtfrun_here(*average, f"--output={tmp_path / 'good'}")
    assert good.returncode == 0, good.stderr.decode()
    flags = [f"--model_dir={tmp_path / 'good'}", "--format=huggingface", f"--to={tmp_path / 'to'}"]
    assert mtfrun_here("export", *flags).returncode == 0
    for name in ("origin/config.json", "operative_config.gin"):
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(tmp_path / "secret")
        line = error_line(mtfrun_here(*average, f"--output={tmp_path / 'bad'}"))
        assert f"{name}: Not a regular file but a link" in line
        (run / name).unlink()
        (run / name).write_bytes((runs["llama"] / "origin/config.json").read_bytes())
    assert not (tmp_path / "bad").exists()
