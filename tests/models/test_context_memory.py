"""Sequences split over devices: the memory of a device, as planned and as measured."""

from __future__ import annotations

import pytest

from tests.bench.attention_memory import measured, planned

DEVICES = 4
# Sizes with which activations take most: of the variables, which every device has whole, 6 MB.
SIZES = ["--block=512", "--d_model=256", "--num_layers=1", "--length=8192"]
# What a device needs in a step, to what it needs with whole sequences. Beyond a quarter there are
# the gradients of the variables, and the exchanged heads beside the returned ones.
LARGEST_PLANNED = 0.28
# By TensorFlow's allocator, see docs/long_sequences.md; 0.28 at these sizes.
LARGEST_MEASURED = 0.3


@pytest.mark.slow
def test_a_device_is_planned_to_need_little_more_than_its_part() -> None:
    one, several = planned(1, SIZES), planned(DEVICES, SIZES)
    assert several["step_mb"] <= LARGEST_PLANNED * one["step_mb"]
    assert several["constants_mb"] <= one["constants_mb"] / 2


@pytest.mark.slow
def test_the_tensors_of_a_process_take_little_more_than_their_part() -> None:
    sizes = [*SIZES, "--steps=1"]
    (one,) = measured(1, sizes)
    several = measured(DEVICES, sizes)
    for process in several:
        assert process["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert process["tensors_mb"] <= LARGEST_MEASURED * one["tensors_mb"]
