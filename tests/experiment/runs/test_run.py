"""Runs in Python do what the commands do, from several threads and of several configurations."""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import pathlib
import shlex
import shutil
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import mtfrun
from mtfrun.cli.parser import parse_flags
from mtfrun.configuration.arguments import literal_bindings
from mtfrun.errors import InputError
from mtfrun.experiment import Decoding
from mtfrun.experiment.inference.answers import record_of
from mtfrun.experiment.runs.opening import Settings
from mtfrun.experiment.runs.run import Run
from mtfrun.rundir import RunDirectory
from mtfrun.training import TrainResult
from tests.cli.command import error_line, mtfrun_here, succeeded, tiny_experiment
from tests.experiment.runs.tiny_runs import files_and_params, trained

# Log-probabilities that are summed in another order, float32.
SUM = 1e-4
# Logits of programs of other shapes, or of other devices.
LOGITS = 1e-5

# Of one length when they are padded: one program decodes them.
PROMPTS = ["line 1", "line ü"]
BEAMS, SAMPLED = {"beam_size": 2, "num_outputs": 2}, {"temperature": 0.7, "seed": 5}
PAIRS = [("train 7", "the quick"), ("x", ""), ("train 8", "the quick brown fox")]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A language model with two checkpoints."""
    return trained("language model", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An encoder-decoder with two checkpoints."""
    return trained("encoder-decoder", tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def former(language_model: Run) -> Run:
    """The language model after its first step, with another configuration."""
    params = ["Decoding.decode_length = 3"]
    return mtfrun.load(language_model.model_dir, checkpoint=1, gin_params=params)


@pytest.fixture(params=["language_model", pytest.param("encoder_decoder", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest) -> Run:
    """A run of each kind in turn."""
    value: Run = request.getfixturevalue(request.param)
    return value


def _lines(run: Run, command: str, *flags: str, stdin: bytes = b"") -> list[dict[str, object]]:
    """Returns the JSON lines of a command about a run, without the step."""
    process = mtfrun_here(command, f"--model_dir={run.model_dir}", *flags, stdin=stdin)
    lines = succeeded(process)
    assert {line.pop("step") for line in lines} == {run.step}
    return lines


def test_training_leaves_what_the_command_leaves(language_model: Run) -> None:
    assert language_model.model_dir is not None
    directory = pathlib.Path(language_model.model_dir)
    names = {path.name for path in directory.iterdir()}
    assert names >= {"checkpoints", "config.gin", "operative_config.gin", "commands", "train"}
    program, *arguments = json.loads((directory / "commands/0001.json").read_text())["command"]
    assert program == "mtfrun"
    process = mtfrun_here(*arguments)
    assert succeeded(process) == []
    assert b"already finished at step 2" in process.stderr


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ("language_model", {}),
        pytest.param("encoder_decoder", BEAMS, marks=pytest.mark.slow),
        pytest.param("language_model", SAMPLED, marks=pytest.mark.slow),
    ],
    indirect=["run"],
)
def test_answers_are_those_of_the_command(run: Run, settings: dict[str, Any]) -> None:
    answers = run.decode(PROMPTS, **settings)
    flags = [f"--prompt={prompt}" for prompt in PROMPTS]
    expected = _lines(run, "decode", *flags, *(f"--{k}={v}" for k, v in settings.items()))
    as_json = [record_of(answer).fields for answer in answers]
    assert json.loads(json.dumps(as_json)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "settings"),
    [("language_model", {}), ("encoder_decoder", SAMPLED | {"num_outputs": 3})],
    indirect=["run"],
)
def test_single_inputs_have_the_same_answers_without_rows_of_padding(
    run: Run, settings: dict[str, Any]
) -> None:
    inference = run.experiment.inference
    assert isinstance(inference, Decoding)
    single = inference.for_single_inputs()
    assert (single.batches.size, inference.batches.size) == (1, inference.batch_size)
    changed = single.with_settings(settings)
    assert changed.batches.size == settings.get("num_outputs", 1)
    (answer,), (expected,) = (x([b"line 1"]) for x in (changed, inference.with_settings(settings)))
    for output, of_batch in zip(answer.outputs, expected.outputs, strict=True):
        assert output._replace(score=0.0) == of_batch._replace(score=0.0)
        assert output.score == pytest.approx(of_batch.score, abs=SUM)


@pytest.mark.slow
def test_scores_and_metrics_are_those_of_the_command(run: Run) -> None:
    pairs = "".join(f"{x}\t{y}\n" for x, y in PAIRS).encode()
    expected = [
        (line["log_likelihood"], line["tokens"], line["truncated_tokens"])
        for line in _lines(run, "score", "--input=-", stdin=pairs)
    ]
    assert [tuple(score) for score in run.score(PAIRS)] == expected
    without_end = run.score(PAIRS, with_end=False)
    assert [score.tokens + 1 for score in without_end] == [tokens for _, tokens, _ in expected]
    lines = _lines(run, "score", "--input=-", "--without_end", stdin=pairs)
    assert [line["log_likelihood"] for line in lines] == [x.log_likelihood for x in without_end]
    (metrics,) = _lines(run, "eval")
    metrics.pop("max_batches", None)
    assert run.evaluate() == run.evaluate("validation") == metrics
    assert run.evaluate("train")["loss"] != metrics["loss"]


def test_logits_are_those_that_scores_are_made_of(run: Run) -> None:
    pairs = [("", y) for _, y in PAIRS]
    for (_, text), score in zip(pairs, run.score(pairs), strict=True):
        ids = [byte + 3 for byte in text.encode()] + [1]
        features = {"targets": [ids]}
        if "inputs" in run.model.required_features:
            features["inputs"] = [[1]]
        logits = run.logits(features).astype(np.float64)
        assert logits.shape[:2] == (1, len(ids))
        log_probs = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        total = sum(log_probs[0, i, id_] for i, id_ in enumerate(ids))
        assert total == pytest.approx(score.log_likelihood, abs=SUM)


def test_logits_do_not_depend_on_padding_and_on_other_rows(language_model: Run) -> None:
    ids = np.arange(4, 24).reshape(1, 20)
    alone = language_model.logits({"targets": ids})
    others = np.concatenate([ids[:, ::-1], ids, ids])
    np.testing.assert_allclose(
        language_model.logits({"targets": others})[1:], np.tile(alone, [2, 1, 1]), atol=LOGITS
    )
    shorter = language_model.logits({"targets": ids[:, :7]})
    np.testing.assert_allclose(shorter, alone[:, :7], atol=LOGITS)
    # Read as they are, ids have the logits of the id after them.
    following = language_model.logits({"inputs": np.pad(ids, ((0, 0), (1, 0)))[:, :-1]})
    np.testing.assert_allclose(following, alone, atol=LOGITS)


@pytest.mark.slow
def test_a_run_on_a_mesh_has_the_same_logits(language_model: Run) -> None:
    on_mesh = mtfrun.load(language_model.model_dir, mesh="data:2,model:2")
    assert on_mesh.mesh.size == 4
    features = {"targets": np.arange(4, 24).reshape(1, 20)}
    expected = language_model.logits(features)
    np.testing.assert_allclose(on_mesh.logits(features), expected, atol=LOGITS)


def test_runs_of_other_configurations_do_not_disturb_each_other(
    language_model: Run, former: Run
) -> None:
    assert (former.step, language_model.step) == (1, 2)
    former_values = former.variables()
    changed = [
        path for path, x in language_model.variables().items() if (x != former_values[path]).any()
    ]
    assert changed
    assert language_model.evaluate() != former.evaluate()
    for _ in range(2):
        assert {answer.output_tokens for answer in former.decode(PROMPTS)} == {3}
        assert {answer.output_tokens for answer in language_model.decode(PROMPTS)} == {8}


def test_threads_decode_at_once(language_model: Run, former: Run) -> None:
    uses: list[Callable[[], object]] = [
        lambda: language_model.decode(PROMPTS),
        former.evaluate,
        lambda: language_model.score(PAIRS),
        language_model.evaluate,
    ]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = [pool.submit(use) for use in uses * 2]
        answers = [result.result() for result in results]
    assert answers == [use() for use in uses] * 2


@pytest.mark.slow
def test_threads_compile_and_decode_at_once(language_model: Run, encoder_decoder: Run) -> None:
    """Programs that do not exist yet, of two models."""
    uses = [
        (run, {"decode_length": length})
        for run in (language_model, encoder_decoder)
        for length in (4, 4)
    ]
    prompts = ["line 1", "a longer prompt than the other"]
    with concurrent.futures.ThreadPoolExecutor(len(uses)) as pool:
        results = [pool.submit(run.decode, prompts, **settings) for run, settings in uses]
        answers = [result.result() for result in results]
    assert answers == [run.decode(prompts, **settings) for run, settings in uses]


@pytest.mark.slow
def test_threads_take_turns_on_a_mesh(language_model: Run) -> None:
    on_mesh = mtfrun.load(language_model.model_dir, mesh="data:2,model:2")
    uses: list[Callable[[], object]] = [
        lambda: on_mesh.score(PAIRS),
        lambda: on_mesh.logits({"targets": [[5, 6, 7]]}).tolist(),
    ]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = [pool.submit(use) for use in uses * 3]
        answers = [result.result() for result in results]
    assert answers == [use() for use in uses] * 3


def test_programs_are_compiled_once(language_model: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    uses: list[Callable[[], object]] = [
        lambda: language_model.decode(PROMPTS),
        lambda: language_model.score(PAIRS),
        lambda: language_model.logits({"targets": [[5, 6, 7]]}).tolist(),
        language_model.evaluate,
    ]
    expected = [use() for use in uses]

    def compiled(*_: object) -> None:
        raise AssertionError("a program is compiled again")

    module = importlib.import_module("mtfrun.mtf.function")
    monkeypatch.setattr(module, "_Compiled", compiled)
    assert [use() for use in uses] == expected
    # Of the same length when it is padded.
    assert language_model.logits({"targets": [[5, 6, 7, 8]]}).shape[:2] == (1, 4)
    with pytest.raises(AssertionError, match="compiled again"):
        language_model.logits({"targets": [[5]] * 5})


def test_errors_are_the_line_of_the_command(language_model: Run) -> None:
    directory = language_model.model_dir
    flags = ["decode", f"--model_dir={directory}", "--prompt=x"]
    expected = error_line(mtfrun_here(*flags, "--beam_size=1000")).removeprefix("mtfrun: error: ")
    with pytest.raises(InputError) as raised:
        language_model.decode(["x"], beam_size=1000)
    assert str(raised.value) == expected
    # The command names its flag as well.
    expected = error_line(mtfrun_here(*flags, "--gin_param=Decoding.batch_size = 0"))
    with pytest.raises(InputError) as raised:
        mtfrun.load(directory, gin_params=["Decoding.batch_size = 0"])
    assert f"mtfrun: error: --gin_param={raised.value}" == expected
    assert isinstance(raised.value, InputError)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"checkpoint": 7}, r"no checkpoint of step 7 .*; choose one of the steps 1"),
        ({"TRAIN_STEP": 7}, r"^TRAIN_STEP=7: macro TRAIN_STEP has no effect: .*TRAIN_STEPS"),
        ({"mesh": "data:2,model:3"}, r"heads:4 .* cannot be split over mesh axis model:3"),
        ({"TRAIN_STEPS": print}, r"^TRAIN_STEPS=<built-in function print> is not a Python literal"),
        ({"gin_params": ["X"]}, "^X: not a gin value"),
    ],
)
def test_a_run_that_cannot_be_loaded_says_why(
    language_model: Run, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        mtfrun.load(language_model.model_dir, **settings)  # type: ignore[arg-type]


def test_inputs_that_cannot_be_used_are_one_line(language_model: Run) -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: language_model.decode("text"), r"prompts are a list: \['text'\]"),
        (lambda: language_model.classify([]), "classify needs Classification, which Decoding is"),
        (lambda: language_model.evaluate("nights"), "nights"),
        (lambda: language_model.logits({}), 'need "targets" or "inputs", not nothing'),
        (lambda: language_model.logits({"targets": [[1], [1, 2]]}), "rows of unequal lengths"),
        (lambda: language_model.logits({"targets": [1]}), r"sizes \[1\], not \[batch, length\]"),
        (lambda: language_model.decode(["a"], beam_size=[2]), "beam_size"),  # type: ignore[arg-type]
        (lambda: language_model.evaluate(["train"]), "split"),  # type: ignore[arg-type]
        (lambda: language_model.logits([[1]]), "features are a dictionary"),  # type: ignore[arg-type]
        (lambda: language_model.logits({"targets": [[-1, 5]]}), "integers from 0.*: .*-1 to 5"),
        (lambda: language_model.logits({"targets": np.array([[None]])}), "is object, not numbers"),
        (lambda: language_model.logits({"targets": [[384]]}), "below 384: .*384 to 384"),
        (lambda: language_model.logits({"targets": [[0.5]]}), "must be ids"),
        (lambda: language_model.logits({"targets": np.zeros([0, 4], int)}), r"sizes \[0, 4\]"),
        (lambda: language_model.logits({"targets": [[1] * 40]}), "longer than max_length=32"),
        (
            lambda: language_model.logits({"targets": [[1]], "targets_position": [[0], [0]]}),
            "the same number of rows",
        ),
    ]
    for use, message in cases:
        with pytest.raises(InputError, match=message):
            use()


def test_a_directory_in_use_is_refused(language_model: Run) -> None:
    assert language_model.model_dir is not None
    config = f"{language_model.model_dir}/config.gin"
    with (
        RunDirectory(language_model.model_dir).lock(),
        pytest.raises(InputError, match="is in use by process"),
    ):
        mtfrun.train(config, language_model.model_dir, TRAIN_STEPS=3)


def test_a_signal_takes_effect_after_training_has_saved(
    language_model: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert language_model.model_dir is not None
    config = f"{language_model.model_dir}/config.gin"
    stopped = TrainResult(1, {}, signal.SIGINT)
    monkeypatch.setattr("mtfrun.experiment.runs.run.run_training", lambda *_: stopped)
    with pytest.raises(KeyboardInterrupt):
        mtfrun.train(config, language_model.model_dir)


@pytest.mark.slow
def test_a_thread_may_train(language_model: Run, tmp_path: pathlib.Path) -> None:
    config = f"{language_model.model_dir}/config.gin"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        run = pool.submit(mtfrun.train, config, tmp_path / "run", TRAIN_STEPS=1).result()
    assert run.step == 1
    assert "step 1" in repr(run)


@pytest.mark.slow
def test_a_run_with_base_sizes_resumes_to_the_bit(tmp_path: pathlib.Path) -> None:
    files, params = files_and_params(tiny_experiment(tmp_path))
    params.append("BASE_SIZES = {'d_model': 4, 'd_ff': 8, 'd_kv': 1}")
    settings: dict[str, Any] = {"TRAIN_STEPS": 3, "CHECKPOINT_EVERY": 1, "EVAL_AT_START": False}
    whole = mtfrun.train(files, tmp_path / "whole", gin_params=params, **settings)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for file in (tmp_path / "resumed" / "checkpoints").glob("*ckpt-[23]*"):
        file.unlink()
    resumed = mtfrun.train(files, tmp_path / "resumed", gin_params=params, **settings)
    values = resumed.variables()
    for path, value in whole.variables().items():
        np.testing.assert_array_equal(values[path], value, err_msg=path)


def test_the_flags_of_settings_are_read_as_the_same_settings() -> None:
    bindings = literal_bindings({"A": "x = 'y'", "B.c": [1, 2]})
    settings = Settings(["a.gin", "b c.gin"], bindings, ["gin files"], [])
    command = shlex.join(["train", *settings.as_flags(), "--model_dir=run"])
    flags = parse_flags(shlex.split(command))
    assert flags.gin_file == settings.files
    assert flags.gin_search_paths == settings.search_paths
    texts = [text.replace(" ", "") for _, text in flags.bindings]
    assert texts == [text.replace(" ", "") for _, text in settings.bindings]
