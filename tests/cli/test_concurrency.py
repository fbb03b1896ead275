"""Concurrent decoding of batches: number of threads, order, the same answers."""

from __future__ import annotations

import os
import pathlib
import threading

import pytest
import tensorflow as tf

from mtfrun import mtf
from mtfrun.experiment.inference.decoding_batches import concurrent_map, number_of_threads
from tests.cli.command import mtfrun_here, succeeded


def test_items_are_worked_on_at_the_same_time_and_results_keep_their_order() -> None:
    both = threading.Barrier(2, timeout=60)

    def work(item: int) -> int:
        if item < 2:
            both.wait()
        return item * item

    with concurrent_map(2) as map_items:
        assert list(map_items(work, range(20))) == [item * item for item in range(20)]


def test_what_has_not_begun_when_an_item_fails_is_not_begun() -> None:
    begun: list[int] = []
    go_on = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            raise ValueError("the first fails")
        go_on.wait(timeout=60)

    def first_failure() -> None:
        with concurrent_map(2) as map_items:
            try:
                list(map_items(work, range(1000)))
            finally:
                go_on.set()

    with pytest.raises(ValueError, match="the first fails"):
        first_failure()
    assert len(begun) < 1000


@pytest.mark.parametrize(("cores", "wished", "expected"), [(4, 2, 2), (1, 2, 1), (4, 9, 4)])
def test_a_cpu_has_a_thread_for_each_core_at_most(
    cores: int, wished: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert number_of_threads(mtf.Mesh(), wished) == expected
    assert number_of_threads(mtf.Mesh("data:2", "batch:data"), wished) == 1
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * (kind == "GPU"))
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda _: False)
    assert number_of_threads(mtf.Mesh(), wished) == 1


GREEDY: list[str] = []
BEAMS, SAMPLES = ["--beam_size=3", "--num_outputs=3"], ["--temperature=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tiny_run", "search"),
    [("encoder-decoder", GREEDY), ("language model", BEAMS), ("language model", SAMPLES)],
    indirect=["tiny_run"],
)
def test_answers_are_those_of_one_batch_after_the_other(
    tiny_run: pathlib.Path,
    search: list[str],
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    prompts = tmp_path / "prompts"
    prompts.write_text("".join(f"line {number}\n" for number in range(22)))
    decode = ["decode", f"--model_dir={tiny_run}", f"--input={prompts}", *search]
    one, three = (
        succeeded(mtfrun_here(*decode, f"--gin.DecodingSpeed.concurrent_batches={number}"))
        for number in (1, 3)
    )
    assert one == three and [answer["prompt"] for answer in one] == prompts.read_text().splitlines()
