"""Prompts with a common beginning, which is read once, have the outputs of other prompts."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

import numpy as np
import pytest

from mtfrun import data, decoding, mtf
from mtfrun.experiment import Decoding, DecodingSpeed, Experiment
from mtfrun.experiment.inference.prefix_cache import Group, group_by_beginning
from mtfrun.models import moe
from mtfrun.models import transformer as t
from tests.layouts import FLOAT32_MODEL_TOLERANCE, ONE_DEVICE, assert_close

LAYOUT = "batch:data;heads:model;d_ff:model;vocab:model"
SHARE = DecodingSpeed(share_beginnings=True)
INSTRUCTION, OTHER = b"Say the numbers after: ", b"Or the letters after this: "
PROMPTS = [
    *(INSTRUCTION + rest for rest in (b"one two", b"1 2 3", b"", b"seven", b"a long list, 1, 2")),
    b"alone",
    *(OTHER + rest for rest in (b"a", b"x y")),
]
HEADS = t.AttentionHeads(num_heads=4, d_kv=4)
ATTENTIONS = {
    "rotary": functools.partial(t.SelfAttention, heads=HEADS, rotary=True),
    "local": functools.partial(
        t.LocalSelfAttention,
        heads=HEADS,
        window=20,
        relative_bias=functools.partial(t.RelativePositionBias, num_heads=4),
    ),
}
FEED_FORWARDS: dict[str, Any] = {
    "rotary": functools.partial(t.FeedForward, d_ff=32),
    "local": functools.partial(
        moe.MoE1D, num_experts=4, experts=functools.partial(moe.Experts, hidden_size=8)
    ),
}


def make_decoding(
    directory: pathlib.Path, mesh_shape: str, kind: str, *, num_layers: int = 2, **settings: Any
) -> Decoding:
    (directory / "text").write_text("some text\n")
    files = data.TextFiles(str(directory / "text"))
    task = data.Task(files, data.ByteVocabulary())
    stack = functools.partial(
        t.Stack, num_layers=num_layers, layers=[ATTENTIONS[kind], FEED_FORWARDS[kind]]
    )
    model = functools.partial(
        t.DecoderOnly,
        embedding=t.TokenEmbedding(16, max_length=80, tied_softmax=False),
        stack=stack,
    )
    experiment = Experiment(
        mtf.Mesh(mesh_shape, LAYOUT), model, data.LanguageModelData(task, length=80)
    )
    mtf.initialize(experiment.model, seed=3)
    return Decoding(experiment, batch_size=2, max_length=80, decode_length=8, **settings)


def assert_same(shared: Decoding, prompts: list[bytes]) -> None:
    expected = dataclasses.replace(
        shared, speed=dataclasses.replace(shared.speed, share_beginnings=False)
    )(prompts)
    actual = shared(prompts)
    for answer, other in zip(actual, expected, strict=True):
        for output, other_output in zip(answer.outputs, other.outputs, strict=True):
            assert_close(output.score, other_output.score, FLOAT32_MODEL_TOLERANCE)
            assert output._replace(score=0.0) == other_output._replace(score=0.0)
        assert answer._replace(outputs=[]) == other._replace(outputs=[])


def test_outputs_are_those_of_whole_prompts(tmp_path: pathlib.Path) -> None:
    shared = make_decoding(tmp_path, ONE_DEVICE, "rotary", num_layers=1, speed=SHARE)
    assert_same(shared, PROMPTS[:2])


# Two that share a beginning and one that does not, where programs are large.
SOME = [*PROMPTS[:2], PROMPTS[5]]
CASES = [
    (ONE_DEVICE, "rotary", PROMPTS, {}),
    (ONE_DEVICE, "local", SOME, {"search": decoding.Search(beam_size=3), "num_outputs": 3}),
    ("data:2,model:2", "local", SOME, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("mesh_shape", "kind", "prompts", "settings"), CASES)
def test_every_kind_of_model_and_search_has_the_same_outputs(
    tmp_path: pathlib.Path,
    mesh_shape: str,
    kind: str,
    prompts: list[bytes],
    settings: dict[str, Any],
) -> None:
    shared = make_decoding(tmp_path, mesh_shape, kind, **{"speed": SHARE, **settings})
    assert_same(shared, prompts)


@pytest.mark.slow
@pytest.mark.usefixtures("decodes_by_xla")
def test_prompts_of_consecutive_calls_share_a_beginning(tmp_path: pathlib.Path) -> None:
    shared = make_decoding(tmp_path, ONE_DEVICE, "rotary", speed=SHARE)
    for prompt in PROMPTS[:3]:
        assert_same(shared, [prompt])


@pytest.mark.slow
def test_of_a_prompt_that_grows_only_the_new_part_is_read(tmp_path: pathlib.Path) -> None:
    shared = make_decoding(tmp_path, "data:2,model:2", "rotary", speed=SHARE)
    text = INSTRUCTION * 3
    for length in (20, 34, 50, 62):
        assert_same(shared, [text[:length]])
    # Programs that read a beginning: the first one whole, and those that extend it.
    assert shared.batches.prefixes._program.cache_info()[:2] == (1, 2)


def test_prompts_are_grouped_by_the_ids_with_which_they_begin() -> None:
    prompts = [np.frombuffer(prompt, np.uint8).astype(np.int32) for prompt in PROMPTS]
    groups = group_by_beginning(prompts)
    assert sorted((sorted(rows), common) for rows, common in groups) == [
        ([0, 1, 2, 3, 4], len(INSTRUCTION)),
        ([5], 0),
        ([6, 7], len(OTHER)),
    ]
    assert group_by_beginning(prompts[:1], earlier=prompts[1:]) == [Group([0], len(INSTRUCTION))]
    assert group_by_beginning([]) == []
