"""Folders that are damaged, or made to do harm: one line, exit code 2, and nothing is left."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mtfrun.errors.untrusted import JsonError, parse_json
from mtfrun.extras.huggingface.safetensors_file import write_file
from tests.cli.command import error_line, mtfrun_here
from tests.extras.huggingface.changes import Change, replace, update, write
from tests.faults.fuzzing import CPU_SECS, cpu_limit
from tests.oracle.packed import hugging_face_folders

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def _header(change_header: Callable[[dict[str, Any], list[str]], None]) -> Change:
    """Returns a change of the header of the weights, called with it and the names in order."""

    def change(folder: pathlib.Path) -> None:
        data = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        change_header(header, [name for name in header if name != "__metadata__"])
        _write(folder, json.dumps(header).encode(), data[8 + length :])

    return change


def _header_text(content: bytes) -> Change:
    """Returns a change that makes `content` the header of the weights."""
    return lambda folder: _write(folder, content, b"")


def _write(folder: pathlib.Path, header: bytes, tensors: bytes) -> None:
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + tensors)


def _negative_offset(header: dict[str, Any], names: list[str]) -> None:
    begin, end = header[names[0]]["data_offsets"]
    header[names[0]]["data_offsets"] = [begin - 64, end - 64]


def _overlap(header: dict[str, Any], names: list[str]) -> None:
    first, second = (name for name in names if header[name]["shape"] == [8, 8, 3, 3])
    header[second]["data_offsets"] = header[first]["data_offsets"]


def _long_shape(header: dict[str, Any], names: list[str]) -> None:
    header[names[0]]["shape"] = [2**62] * 100_000


def _quantised(header: dict[str, Any], names: list[str]) -> None:
    name = next(name for name in names if len(header[name]["shape"]) == 1)
    header[name]["dtype"], header[name]["shape"] = "I8", [4 * header[name]["shape"][0]]


def _index(weight_map: object) -> Change:
    """Returns a change that adds an index; the one file of weights stays."""
    return write(INDEX, json.dumps({"metadata": {}, "weight_map": weight_map}))


def _extra_tensor(folder: pathlib.Path) -> None:
    write_file(folder / "model-00002.safetensors", {"more": np.zeros([2], np.float32)}, {})
    names = json.loads(_header_of(folder))
    weight_map = {name: WEIGHTS for name in names if name != "__metadata__"}
    _index({**weight_map, "more": "model-00002.safetensors"})(folder)


def _two_files_with_one_name(folder: pathlib.Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "model-00002.safetensors")
    first, second, *_ = (name for name in json.loads(_header_of(folder)) if name[0] != "_")
    _index({first: WEIGHTS, second: "model-00002.safetensors"})(folder)


def _header_of(folder: pathlib.Path) -> bytes:
    data = (folder / WEIGHTS).read_bytes()
    return data[8 : 8 + int.from_bytes(data[:8], "little")]


def _link_out(folder: pathlib.Path) -> None:
    outside = folder.parent / "outside.safetensors"
    (folder / WEIGHTS).rename(outside)
    (folder / WEIGHTS).symlink_to(outside)


def _only(name: str) -> Change:
    def change(folder: pathlib.Path) -> None:
        (folder / WEIGHTS).rename(folder / name)

    return change


# What is done to a folder, and what the line says.
CASES: dict[str, tuple[Change, str]] = {
    "other sizes than the tensors": (
        update("config.json", num_channels=1),
        "which do not fit config.json",
    ),
    "more layers than tensors": (
        update("config.json", depths=[1, 1, 10**9, 1]),
        "are more than the",
    ),
    "fewer layers": (update("config.json", depths=[1, 1, 1, 1]), "unknown to config.json"),
    "an impossible size": (
        update("config.json", num_channels=2**60),
        "num_channels=1152921504606846976",
    ),
    "a size that is no number": (
        update("config.json", embedding_size=float("nan")),
        "NaN is no number",
    ),
    "an unknown model": (update("config.json", model_type="resnetx"), "did you mean 'resnet'"),
    "a task without support": (
        update("config.json", architectures=["ResNetModel"]),
        "architectures=",
    ),
    "quantised by name": (
        update("config.json", quantization_config={"quant_method": "gptq", "bits": 4}),
        "'gptq', 'bits': 4} is not supported: import the folder of the model before it was quant",
    ),
    "quantised weights": (_header(_quantised), "has type I8: convert it to one of F32, BF16, F16"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json: No such"),
    "a configuration that is no JSON": (write("config.json", "{'a': 1}"), "is not JSON: "),
    "deep JSON": (write("config.json", '{"a":' * 100_000), "is not JSON: its values are too deep"),
    "a name twice": (
        write("config.json", '{"model_type": "resnet", "model_type": "t5"}'),
        "it has 'model_type' twice",
    ),
    "no UTF-8": (write("config.json", b'{"model_type": "\xff"}'), "byte 16 is no UTF-8"),
    "a huge configuration": (write("config.json", b" " * 50_000_001), "has more than 50000000"),
    "a pipe": (replace("config.json", os.mkfifo), "config.json: Not a regular file"),
    "a directory": (replace(WEIGHTS, os.mkdir), "has no weights: there is no model.safetensors"),
    "a link out of the folder": (_link_out, "is a link to"),
    "a link in a circle": (
        replace("config.json", lambda path: path.symlink_to(path)),
        "config.json: Too many levels of symbolic links",
    ),
    "a pickle file": (
        _only("pytorch_model.bin"),
        "pytorch_model.bin is a pickle file, which can run any code",
    ),
    "only a file of llama.cpp": (
        _only("resnet-q4.gguf"),
        "resnet-q4.gguf is a file of llama.cpp: import",
    ),
    "an index of pickle files": (_index({"a": "weights.bin"}), "weights.bin is a pickle file"),
    "an index that leaves the folder": (
        _index({"a": "../resnet_basic/model.safetensors"}),
        "names '../resnet_basic/model.safetensors', which is not a file of the folder",
    ),
    "an index with a number": (_index({"a": 3}), "names 3, which is not a file"),
    "an index without files": (_index({}), "has no weight_map"),
    "a file that is missing": (_index({"a": "b.safetensors"}), "b.safetensors: No such file"),
    "a tensor that is missing": (_index({"a": WEIGHTS}), "says that a is in model.safetensors"),
    "a tensor too many": (_extra_tensor, "has more, unknown to config.json"),
    "a tensor in two files": (_two_files_with_one_name, " have "),
    "a truncated file": (
        lambda folder: os.truncate(folder / WEIGHTS, 20_000),
        "is truncated; copy it again",
    ),
    "bytes after the tensors": (
        lambda folder: os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size + 8),
        "has 8 bytes after its last tensor",
    ),
    "a header of 2^60 bytes": (
        write(WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"),
        "a header of 1152921504606846976 bytes in a file of 10",
    ),
    "a header that is no JSON": (_header_text(b"{"), "its header is damaged"),
    "a deep header": (_header_text(b"[" * 100_000), "its header is damaged: its values are too"),
    "a header of numbers": (_header_text(b'{"a": 3}'), "its header is damaged"),
    "a negative offset": (_header(_negative_offset), "has impossible sizes"),
    "tensors that overlap": (_header(_overlap), "its tensors overlap"),
    "a shape of 100,000 sizes": (_header(_long_shape), "has impossible sizes"),
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder that can be imported, beside which is nothing."""
    target = tmp_path / "from" / "resnet_basic"
    shutil.copytree(hugging_face_folders() / "resnet_basic", target)
    return target


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_folder_is_refused(folder: pathlib.Path, name: str) -> None:
    change, message = CASES[name]
    change(folder)
    target = folder.parents[1] / "runs" / "run"
    line = error_line(mtfrun_here("import", f"--from={folder}", f"--model_dir={target}"))
    assert message in line and len(line) < 500
    assert [path.name for path in folder.parents[1].iterdir()] == ["from"]


def test_a_pickle_file_is_refused_by_its_name(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(b"\x80")
    line = error_line(mtfrun_here("import", f"--from={path}", f"--model_dir={tmp_path / 'run'}"))
    assert "is a pickle file" in line and "safetensors" in line


def test_code_of_a_folder_is_not_run(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    update("config.json", auto_map={"AutoModel": "code.Model"}, trust_remote_code=True)(folder)
    (folder / "code.py").write_text("raise SystemExit(3)")
    process = mtfrun_here("import", f"--from={folder}", f"--model_dir={tmp_path / 'run'}")
    assert process.returncode == 0
    assert b"auto_map, trust_remote_code in config.json: no code of the folder is run" in (
        process.stderr
    )
    assert not (tmp_path / "run" / "origin" / "code.py").exists()


def test_a_folder_of_the_cache_of_the_hub_is_read(tmp_path: pathlib.Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "main"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    shutil.copytree(hugging_face_folders() / "resnet_basic", blobs)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(f"../../blobs/{path.name}")
    process = mtfrun_here("import", f"--from={snapshot}", f"--model_dir={tmp_path / 'run'}")
    assert process.returncode == 0, process.stderr.decode()


def test_a_repeated_name_is_found_in_linear_time() -> None:
    names = ",".join(f'"a{number}": 1' for number in [*range(200_000), 199_999])
    with cpu_limit(CPU_SECS), pytest.raises(JsonError, match="'a199999' twice"):
        parse_json(b"{%s}" % names.encode())


NAMES = ["a\nTRAIN_STEPS = 5", "a\rTRAIN_STEPS = 5\n#", "b\udcff", "x; touch pwned #", "'\"\\"]


@pytest.mark.parametrize(
    "name", [NAMES[0], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
)
def test_the_name_of_a_folder_adds_no_statement(name: str, tmp_path: pathlib.Path) -> None:
    names = []
    for folder, run in (("plain", "run"), (name, name.rstrip("\\\udcff") + " run")):
        shutil.copytree(hugging_face_folders() / "resnet_basic", tmp_path / folder)
        flags = [f"--from={tmp_path / folder}", f"--model_dir={tmp_path / run}"]
        process = mtfrun_here("import", *flags)
        assert process.returncode == 0, process.stderr.decode()
        lines = (tmp_path / run / "config.gin").read_text().splitlines()
        names.append([line.split(" = ")[0] for line in lines if not line.startswith("#")])
    assert names[0] == names[1]
    flags = ["--format=huggingface", f"--to={tmp_path / 'target'}"]
    assert mtfrun_here("export", f"--model_dir={tmp_path / run}", *flags).returncode == 0
