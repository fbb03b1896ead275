"""A run that was trained here, judged by the methods that lm-evaluation-harness calls."""

from __future__ import annotations

import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest

import mtfrun
from mtfrun.errors import InputError
from mtfrun.experiment import Decoding
from mtfrun.extras.lm_eval.harness import JudgedModel, PairScores, register

# Relative; sums of other numbers of terms.
TOLERANCE = 1e-5


def _requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [types.SimpleNamespace(args=each) for each in arguments]


@pytest.fixture(scope="module")
def judged(shared_runs: Any) -> JudgedModel:
    return JudgedModel(str(shared_runs("language model")), batch_size="4", max_length=32)


def test_texts_add_up_to_their_contexts_and_continuations(judged: JudgedModel) -> None:
    """The model predicts the first byte of a text: an empty context needs no token before it."""
    whole, first = judged.loglikelihood(_requests(("", "the quick fox"), ("", "the quick")))
    ((last, is_greedy),) = judged.loglikelihood(_requests(("the quick", " fox")))
    assert whole[0] == pytest.approx(first[0] + last, rel=TOLERANCE)
    assert not is_greedy
    (score,) = judged._decoding.scoring([(b"the quick", b" fox")], with_end=False)
    assert score[0] == pytest.approx(last, rel=TOLERANCE)
    assert judged.loglikelihood_rolling(_requests(("the quick fox",))) == pytest.approx(
        [whole[0]], rel=TOLERANCE
    )


def test_long_texts_are_scored_in_windows(judged: JudgedModel) -> None:
    text = "the quick brown fox jumps over the lazy dog"  # 43 bytes, in rows of 32
    (total,) = judged.loglikelihood_rolling(_requests((text,)))
    parts = judged.loglikelihood(_requests(("", text[:32]), (text[11:32], text[32:])))
    assert total == pytest.approx(sum(score for score, _ in parts), rel=TOLERANCE)


def test_the_likeliest_token_is_greedy_and_no_other(language_model_run: pathlib.Path) -> None:
    run = mtfrun.load(language_model_run)
    decoding = run.experiment.inference
    assert isinstance(decoding, Decoding)
    context = np.array([7, 8, 9], np.int32)
    logits = run.logits({"targets": [[*context, 1]]})[0, -1]
    ids = [np.array([token], np.int32) for token in (np.argmax(logits), np.argmin(logits))]
    scores = PairScores(decoding, None)([(context, token) for token in ids])
    (highest, is_greedy), (lowest, least_is_greedy) = scores
    assert is_greedy and not least_is_greedy
    difference = float(logits.max() - logits.min())
    assert highest - lowest == pytest.approx(difference, rel=1e-4)


@pytest.mark.slow
def test_a_mesh_does_not_change_the_scores(
    judged: JudgedModel, language_model_run: pathlib.Path
) -> None:
    on_mesh = JudgedModel(str(language_model_run), max_length=32, mesh="data:2;model:2")
    requests = _requests(("the quick", " fox"), ("", "brown"), ("the " * 9, "quick"))
    for ours, theirs in zip(
        on_mesh.loglikelihood(requests), judged.loglikelihood(requests), strict=True
    ):
        assert ours == pytest.approx(theirs, rel=TOLERANCE)


@pytest.mark.slow
def test_outputs_end_before_a_stop_string(judged: JudgedModel) -> None:
    prompts = ["the quick", "brown"]
    free = judged.generate_until(_requests(*((p, {"max_gen_toks": 8}) for p in prompts)))
    assert all(free)
    stop = free[1][1]
    settings = {"until": ["", stop], "max_gen_toks": 8, "do_sample": False}
    stopped = judged.generate_until(_requests(*((p, settings) for p in prompts)))
    assert stopped == [output.partition(stop)[0] for output in free]


def test_settings_out_of_range_and_a_missing_package_are_one_line(
    language_model_run: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="batch_size"):
        JudgedModel(str(language_model_run), batch_size=0)
    with pytest.raises(InputError, match="max_length"):
        JudgedModel(str(language_model_run), max_length=0)
    monkeypatch.setitem(sys.modules, "lm_eval.models", None)
    with pytest.raises(InputError, match="judging needs the package lm_eval"):
        register()
