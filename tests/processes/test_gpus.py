"""The GPUs that processes of one machine share."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from mtfrun import processes
from mtfrun.processes.gpus import gpus_of_process, share_gpus


@pytest.mark.parametrize(
    ("variables", "files", "shares"),
    [
        ([{}, {}, {}, {}], [2, 2, 2, 2], [{}] * 4),
        ([{}, {}], [4, 4], ["0,1", "2,3"]),
        ([{"CUDA_VISIBLE_DEVICES": "0,1"}] * 2, [8, 8], ["0", "1"]),
        ([{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}], [2, 2], ["0", "1"]),
        ([{"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_PER_TASK": "2"}] * 2, [4, 4], ["0,1"] * 2),
        ([{}, {}, {}], [1, 2, 2], ["0", "0", "1"]),  # the first is in another container
    ],
    ids=["too few", "all GPUs", "named GPUs", "launched", "tasks of SLURM", "containers"],
)
def test_processes_of_one_machine_that_see_the_same_gpus_share_them(
    variables: list[dict[str, str]],
    files: list[int],
    shares: list[Any],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []
    for is_gathered in (False, True):  # the values of all processes, then the results of each
        for index, number in enumerate(files):
            folder = tmp_path / str(index)
            folder.mkdir(exist_ok=True)
            for name in [*(f"nvidia{i}" for i in range(number)), "nvidiactl"]:
                (folder / name).touch()

            def gather(value: Any, _: str, *, index: int = index) -> list[Any]:
                seen.append(value)
                return seen[: len(files)] if is_gathered else [None] * index + [value]  # noqa: B023

            monkeypatch.setattr(processes, "index", lambda index=index: index)
            monkeypatch.setattr(processes, "gather", gather)
            environment = dict(variables[index])
            share_gpus(environment, str(folder))
            if is_gathered:
                share = shares[index]
                assert environment.get("CUDA_VISIBLE_DEVICES", {}) == share


def test_gpus_are_found_by_their_device_files(tmp_path: pathlib.Path) -> None:
    for name in ("nvidia0", "nvidia2", "nvidia10", "nvidiactl"):
        (tmp_path / name).touch()
    assert gpus_of_process(2, 3, {}, str(tmp_path)) == {"CUDA_VISIBLE_DEVICES": "2"}
    # Fewer GPUs than processes: TensorFlow says so.
    assert gpus_of_process(0, 4, {}, str(tmp_path)) == {}
