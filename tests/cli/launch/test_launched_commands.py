"""eval, decode and score print the same in two processes as in one, once."""

from __future__ import annotations

import json
import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from tests.cli.command import ROOT, environment, error_line, mtfrun, mtfrun_here, tiny_experiment
from tests.processes.threads import free_address, own_addresses

# Of the numbers that are printed, relative.
TOLERANCE = 1e-5

MESH = ["--gin.MESH_SHAPE='data:2,model:1'", "--gin.LAYOUT='batch:data'"]
TWO_PROMPTS = "--gin.Decoding.batch_size=2"
COMMANDS = {
    "decode of standard input": (["decode", "--input=-", TWO_PROMPTS], b"the\nqu\xff\n\n"),
    "a conversation": (["decode", "--interactive", TWO_PROMPTS], b"the\nquick\n"),
    "eval of all": (["eval", "--checkpoint=all"], b""),
    "score": (["score", "--input=-"], b"the\tquick\nbrown\tfox\n"),
}


def _without_progress(stderr: bytes) -> list[bytes]:
    return [line for line in stderr.splitlines() if not line.startswith(b"decoding: ")]


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_print_what_one_does(name: str, language_model_run: pathlib.Path) -> None:
    (command, *flags), stdin = COMMANDS[name]
    arguments = [command, f"--model_dir={language_model_run}", *flags, *MESH]
    one = mtfrun_here(*arguments, stdin=stdin)
    two = mtfrun("launch", "-n", "2", "--devices_per_process=1", "--", *arguments, stdin=stdin)
    assert (one.returncode, two.returncode) == (0, 0), two.stderr.decode()
    # On a busy machine there is a line of progress.
    assert _without_progress(two.stderr) == _without_progress(one.stderr)
    if "--interactive" in flags:
        assert two.stdout == one.stdout
        return
    lines = list(zip(one.stdout.splitlines(), two.stdout.splitlines(), strict=True))
    assert lines
    for of_one, of_two in lines:
        assert json.loads(of_two) == _up_to_rounding(json.loads(of_one))


def _up_to_rounding(value: Any) -> Any:
    """Returns a value that equals a JSON value whose numbers are rounded differently."""
    if isinstance(value, dict):
        return {key: _up_to_rounding(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return list(map(_up_to_rounding, value))
    return pytest.approx(value, rel=TOLERANCE) if isinstance(value, float) else value


@pytest.mark.slow
def test_an_output_file_is_written_once(
    language_model_run: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    output = tmp_path / "answers.jsonl"
    decode = ["decode", f"--model_dir={language_model_run}", "--prompt=the", f"--output={output}"]
    process = mtfrun("launch", "-n", "2", "--", *decode, TWO_PROMPTS, *MESH)
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")
    assert len(output.read_text().splitlines()) == 1
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_other_programs_cannot_connect_to_the_processes(language_model_run: pathlib.Path) -> None:
    decode = ["decode", "--interactive", f"--model_dir={language_model_run}", TWO_PROMPTS, *MESH]
    with subprocess.Popen(
        [sys.executable, "-m", "mtfrun", "launch", "-n", "2", "--", *decode],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        assert process.stderr.read(2) == b"> "
        network = pathlib.Path(f"/proc/{process.pid}/net")
        text = (network / "tcp").read_text() + (network / "tcp6").read_text()
        lines = [line.split() for line in text.splitlines()]
        ports = [int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == "0A"]
        assert len(ports) == 2  # of TensorFlow's servers
        for host in own_addresses():
            for port in ports:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection((host, port), timeout=5)
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.parametrize("mesh, devices", [(MESH, 2), ((), 1)])
def test_a_mesh_that_processes_do_not_divide_is_refused_before_they_start(
    mesh: Sequence[str], devices: int, tmp_path: pathlib.Path
) -> None:
    command = ["train", "--gin_file=runs/quickstart.gin", f"--model_dir={tmp_path}/run", *mesh]
    assert error_line(mtfrun("launch", "-n", "64", "--", *command)) == (
        f"mtfrun: error: mesh data:{devices};model:1 has {devices} device(s), which 64 processes "
        "do not divide: change the mesh, or the number of processes"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_devices_than_those_of_the_mesh_are_refused(language_model_run: pathlib.Path) -> None:
    process = mtfrun(
        *("launch", "-n", "2", "--devices_per_process=3", "--"),
        *("eval", f"--model_dir={language_model_run}", *MESH),
    )
    assert error_line(process) == (
        "mtfrun: error: mesh data:2;model:1 has 2 device(s), 2 process(es) with "
        "--devices_per_process=3 have 6: change one of them"
    )


_SAME = r": start all processes with the same$"
REFUSED = {
    "the seed": (["--gin.SEED=3"], r"configuration: SEED 0 -> 3" + _SAME),
    "a flag": (["--accept_changes"], r"command: --accept_changes False -> True" + _SAME),
    "the directory": (["--model_dir={}/other"], r"--model_dir \S+/other than process 0 \(.*share$"),
    "a module": (["cwd"], r"code: mine \w{12} -> \w{12}" + _SAME),
    "the data": (["cwd"], r"(training data|vocabulary or data): .*" + _SAME),
}
SETTINGS_QUICK = "a flag"


def _train(directory: pathlib.Path, flags: Sequence[str], *other: str) -> list[tuple[int, str]]:
    """Returns exit codes and errors of two processes, the second one with other flags."""
    shared = ["--num_processes=2", f"--coordinator={free_address()}", "--trusted_network"]
    folders = [directory, directory / "other" if "cwd" in other else directory]
    extra = [[], [flag.format(directory) for flag in other if flag != "cwd"]]
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "mtfrun", "train", f"--process_id={index}", *shared),
                *(*flags, f"--model_dir={directory}/run", *extra[index]),
            ],
            cwd=folders[index],
            env={**environment(), "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    return [(p.returncode, error) for p, error in zip(processes, errors, strict=True)]


def _flags(directory: pathlib.Path) -> list[str]:
    """Returns the flags of a training on data in the working directory."""
    for folder in (directory, directory / "other"):
        folder.mkdir(exist_ok=True)
        flags = tiny_experiment(folder)
        (folder / "mine.py").write_text(f"# {folder}")
    (directory / "other" / "train.txt").write_text("another text\n" * 100)
    relative = [flag.replace(f"{directory}/other/", "") for flag in flags]
    return [*relative, "--gin.MESH_SHAPE='data:2,model:1'", "--gin.LAYOUT='batch:data'"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == SETTINGS_QUICK else pytest.mark.slow) for n in REFUSED],
)
def test_a_difference_ends_all_processes_and_is_named(name: str, tmp_path: pathlib.Path) -> None:
    other, message = REFUSED[name]
    flags = [*_flags(tmp_path), *["--module_import=mine"] * (name == "a module")]
    (code, error), (other_code, other_error) = _train(tmp_path, flags, *other)
    assert (code, other_code, other_error) == (2, 2, "")
    (line,) = error.splitlines()
    assert re.match(r"mtfrun: error: process 1 of 2 ", line) and re.search(message, line), line
    assert not list(tmp_path.glob("**/ckpt-*")) and not list(tmp_path.glob("**/config.gin"))


@pytest.mark.slow
def test_some_settings_may_differ(tmp_path: pathlib.Path) -> None:
    other = ["--gin.ITERATIONS_PER_LOOP=2", "--profile", "--gin.Mesh.devices=['CPU:0']", "--debug"]
    flags = [*_flags(tmp_path), "--gin.ITERATIONS_PER_LOOP=1"]
    codes = [code for code, _ in _train(tmp_path, flags, *other)]
    assert codes == [0, 0]
