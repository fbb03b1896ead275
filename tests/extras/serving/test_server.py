"""The server answers as `mtfrun decode` does, whatever else it decodes at the time."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from mtfrun.decoding import Controls
from mtfrun.experiment import Decoding
from mtfrun.extras.chat import ChatTemplate
from mtfrun.extras.constraints import JsonSchema, Regex
from mtfrun.extras.serving.app import make_app
from mtfrun.extras.serving.generation import Limits
from mtfrun.extras.serving.served_model import ServedModel
from tests.extras.serving.tiny_models import served

PROMPTS = ["The ", "a", "one two three four", "é", "x" * 30, "  ", "if"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return served(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def client(model: ServedModel) -> Iterator[TestClient]:
    app = make_app(model, Limits(tokens=40, seconds=300), token=None)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


def _complete(client: TestClient, **request: Any) -> Any:
    response = client.post("/v1/completions", json=request)
    assert response.status_code == 200, response.text
    return response.json()


def _decode(model: ServedModel, prompt: str, **settings: Any) -> list[str]:
    assert isinstance(model.inference, Decoding)
    (answer,) = model.inference.with_settings(settings)([prompt.encode()])
    return [output.text for output in answer.outputs]


@pytest.mark.slow
def test_greedy_outputs_of_concurrent_requests_are_those_of_decode(
    client: TestClient, model: ServedModel
) -> None:
    limits = [10 if len(prompt) < 3 else 20 for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        results = list(
            pool.map(lambda x, n: _complete(client, prompt=x, max_tokens=n), PROMPTS, limits)
        )
    decodings = {n: model.decoding.with_settings({"decode_length": n}) for n in limits}
    for prompt, limit, result in zip(PROMPTS, limits, results, strict=True):
        (choice,) = result["choices"]
        (answer,) = decodings[limit]([prompt.encode()])
        assert choice["text"] == answer.output


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"beam_size": 3, "alpha": 0.6}, {"temperature": 0.8, "top_k": 5, "seed": 3}]
)
def test_beams_and_samples_are_those_of_decode(
    client: TestClient, model: ServedModel, settings: dict[str, Any]
) -> None:
    result = _complete(client, prompt="The ", max_tokens=12, n=2, **settings)
    texts = [choice["text"] for choice in result["choices"]]
    assert texts == _decode(model, "The ", decode_length=12, num_outputs=2, **settings)


@pytest.mark.slow
def test_events_together_are_the_whole_answer(client: TestClient) -> None:
    request = {"prompt": ["The ", "é"], "max_tokens": 20, "logprobs": 1, "seed": 1}
    whole = _complete(client, **request)
    request = {**request, "stream": True, "stream_options": {"include_usage": True}}
    lines = client.post("/v1/completions", json=request).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert events[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [x for e in events for x in e["choices"] if x["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        log_probs = [x for part in parts for x in part["logprobs"]["token_logprobs"]]
        assert log_probs == pytest.approx(choice["logprobs"]["token_logprobs"], abs=1e-4)


@pytest.mark.slow
def test_an_assistant_s_turn_is_that_of_decode(client: TestClient, model: ServedModel) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": [{"type": "text", "text": "W"}, {"type": "text", "text": "y"}]},
    ]
    request = {"messages": messages, "max_completion_tokens": 12, "logprobs": True}
    whole = client.post("/v1/chat/completions", json=request).json()
    (choice,) = whole["choices"]
    texts = [*messages[:2], {"role": "user", "content": "Wy"}]
    (answer,) = model.decoding.with_settings({"chat": ChatTemplate("plain"), "decode_length": 12})(
        [json.dumps({"messages": texts}).encode()]
    )
    assert choice["message"] == {"role": "assistant", "content": answer.output, "refusal": None}
    assert whole["usage"]["prompt_tokens"] == answer.prompt_tokens
    lines = client.post("/v1/chat/completions", json={**request, "stream": True}).text.split("\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta["content"] for delta in deltas) == answer.output
    assert [delta.get("role") for delta in deltas][:2] == ["assistant", None][: len(deltas)]


@pytest.mark.slow
def test_an_output_ends_before_a_stop(client: TestClient) -> None:
    (choice,) = _complete(client, prompt="The ", max_tokens=20)["choices"]
    stop = choice["text"][4:6]
    (stopped,) = _complete(client, prompt="The ", max_tokens=20, stop=stop)["choices"]
    assert stopped["text"] == choice["text"].partition(stop)[0]
    assert stopped["finish_reason"] == "stop"


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"]}
SCHEMA_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "constraint", "settings"),
    [
        ({"guided_regex": "[a-d]{3}( [e-z]{2,4})?"}, Regex("[a-d]{3}( [e-z]{2,4})?"), {}),
        ({"guided_regex": "[a-d]+e[^e]*"}, Regex("[a-d]+e[^e]*"), {"stop": ["a", "bb"]}),
        ({"response_format": SCHEMA_FORMAT}, JsonSchema(json.dumps(SCHEMA)), {"beam_size": 2}),
        (
            {"response_format": {"type": "json_object"}},
            JsonSchema('{"type": "object"}'),
            {"temperature": 1.0, "seed": 4, "num_outputs": 2},
        ),
    ],
)
def test_constrained_outputs_are_those_of_decode(
    client: TestClient,
    model: ServedModel,
    field: dict[str, Any],
    constraint: Any,
    settings: dict[str, Any],
) -> None:
    request = {**settings, **field, "prompt": "The ", "max_tokens": 16}
    request["n"] = request.pop("num_outputs", 1)
    free = {"prompt": "é", "max_tokens": 16}
    with ThreadPoolExecutor(2) as pool:  # rows of one batch
        whole, other = pool.map(lambda x: _complete(client, **x), [request, free])
    constrained = model.decoding.with_settings({**settings, "decode_length": 16})
    controls = Controls(constraints=[constraint], stop=settings.get("stop", []))
    search = dataclasses.replace(constrained.search, controls=controls)
    constrained = dataclasses.replace(constrained, search=search)
    (answer,) = constrained([b"The "])
    choices = whole["choices"]
    assert [choice["text"] for choice in choices] == [x.text for x in answer.outputs]
    ends = ["stop" if x.finished else "length" for x in answer.outputs]
    assert [choice["finish_reason"] for choice in choices] == ends
    assert [other["choices"][0]["text"]] == _decode(model, "é", decode_length=16)
    if "beam_size" not in settings:
        lines = client.post("/v1/completions", json={**request, "stream": True}).text.split("\n\n")
        parts = [x for e in lines[:-2] for x in json.loads(e.removeprefix("data: "))["choices"]]
        for choice in choices:
            texts = [x["text"] for x in parts if x["index"] == choice["index"]]
            assert "".join(texts) == choice["text"]


@pytest.mark.slow
def test_json_that_does_not_fit_the_limit_ends_by_length(client: TestClient) -> None:
    (choice,) = _complete(client, prompt="a", max_tokens=3, response_format=SCHEMA_FORMAT)[
        "choices"
    ]
    assert choice["finish_reason"] == "length"
    message = {"role": "user", "content": "Hi"}
    request = {"messages": [message], "max_tokens": 20, "response_format": SCHEMA_FORMAT}
    (choice,) = client.post("/v1/chat/completions", json=request).json()["choices"]
    assert json.loads(choice["message"]["content"])["a"] in (1, 22)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("request_fields", "status", "problem"),
    [
        ({"prompt": "x" * 70, "max_tokens": 9}, 400, "a prompt has 70 tokens"),
        ({"prompt": [400]}, 400, "prompt has the id 400"),
        ({"prompt": "a", "n": 2, "temperature": 0}, 400, "num_outputs=2"),
        ({"prompt": "a", "beam_size": 2, "logprobs": 1}, 400, "logprobs are not available"),
        ({"prompt": "a", "guided_regex": "a{100000}"}, 400, "more than 20,000 states"),
        ({"prompt": "a", "guided_regex": "("}, 400, "constraints.Regex cannot use '('"),
        ({"prompt": "a", "model": "other"}, 404, "there is no model 'other'"),
    ],
)
def test_what_the_model_cannot_do_is_refused(
    client: TestClient, request_fields: dict[str, Any], status: int, problem: str
) -> None:
    response = client.post("/v1/completions", json=request_fields)
    assert response.status_code == status
    assert problem in response.json()["error"]["message"]


@pytest.mark.slow
def test_other_paths(client: TestClient, model: ServedModel) -> None:
    facts = {"model": "tiny", "step": 7, "adapter": None, "features": ["chat", "logprobs"]}
    assert client.get("/health").json() == {"status": "ok", **facts}
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/v1/models/other").status_code == 404
    assert client.get("/nothing").json()["error"]["message"] == "Not Found"
    assert client.get("/v1/completions").status_code == 405
    assert client.post("/classify", json={"texts": ["a"]}).status_code == 404
    pairs = [{"input": "a", "target": "b"}, {"target": "cd"}]
    scores = client.post("/score", json={"pairs": pairs}).json()["scores"]
    assert isinstance(model.inference, Decoding)
    expected = model.inference.scoring([(b"a", b"b"), (b"", b"cd")])
    assert scores == [score._asdict() for score in expected]
    assert client.post("/score", json={"pairs": [1]}).status_code == 400
    text = client.get("/metrics").text
    assert 'mtfrun_requests_total{path="/score",status="200"} 1.0' in text
    assert "mtfrun_rows_active 0.0" in text
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"(?:src|href)=|url\(|@import|import\(", page.text)
