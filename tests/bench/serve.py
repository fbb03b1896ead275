"""`bin/bench serve`: what requests at a time gain over requests one after the other.

A server of the small language model (gin/models/lm_small.gin), untrained, decodes prompts of mixed
lengths: with one client, which sends a request when the one before is answered, and with several.
Rounds alternate. `ratio` is that of the tokens a second.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

GOAL = 3.0
_WORDS = 20_000
_SECS = 300
_LINE = re.compile(r"http://127\.0\.0\.1:(\d+)/")
_TEXT = "the quick brown fox jumps over the lazy dog, and "


def main() -> None:
    parser = argparse.ArgumentParser(prog="bin/bench serve", description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model_dir", help="a run, instead of an untrained model")
    options = parser.parse_args()
    with _server(options.model_dir) as port:
        line = _compare(port, options.clients, options.tokens, options.rounds)
    print(json.dumps(line))


@contextlib.contextmanager
def _server(model_dir: str | None) -> Iterator[int]:
    with tempfile.TemporaryDirectory() as name:
        if model_dir is None:
            model_dir = f"{name}/run"
            _train(pathlib.Path(name, "text.txt"), model_dir)
        words = [sys.executable, "-m", "mtfrun", "serve", f"--model_dir={model_dir}", "--port=0"]
        log = pathlib.Path(name, "log")
        with log.open("wb") as file:
            process = subprocess.Popen(words, stderr=file)
        try:
            yield _port(process, log)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _train(text: pathlib.Path, model_dir: str) -> None:
    text.write_text("the quick brown fox\n" * _WORDS)
    flags = [
        *(
            f"--gin_file={x}"
            for x in ("defaults.gin", "models/lm_small.gin", "data/text_files.gin")
        ),
        *(f"--gin.TEXT_FILES={str(text)!r}", "--gin.TRAIN_STEPS=1", "--gin.EVAL_AT_START=False"),
        *("--gin.SEQUENCE_LENGTH=256", "--gin.BATCH_SIZE=2", "--gin.Evaluation.max_batches=1"),
    ]
    words = [sys.executable, "-m", "mtfrun", "train", *flags, f"--model_dir={model_dir}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _port(process: subprocess.Popen[bytes], log: pathlib.Path) -> int:
    for _ in range(_SECS * 10):
        if (match := _LINE.search(log.read_text("utf-8"))) is not None:
            return int(match[1])
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(log.read_text("utf-8"))


def _compare(port: int, clients: int, tokens: int, rounds: int) -> dict[str, object]:
    speeds: dict[int, list[float]] = {1: [], clients: []}
    for round_number in range(rounds + 1):
        for number, measured in speeds.items():
            start = time.perf_counter()
            requests = list(range(2 * clients if number > 1 else clients // 2))
            decoded = _send_all(port, requests, number, tokens)
            if round_number:  # the first one compiles, and fills caches
                measured.append(decoded / (time.perf_counter() - start))
    one, several = (sorted(speeds[number])[rounds // 2] for number in (1, clients))
    return {
        "subject": f"{clients} clients, {tokens} tokens each",
        "tokens_per_sec": round(several, 1),
        "one_client_tokens_per_sec": round(one, 1),
        "ratio": round(several / one, 2),
        "ratios": [round(b / a, 2) for a, b in zip(*speeds.values(), strict=True)],
        "goal": GOAL,
    }


def _send_all(port: int, requests: list[int], clients: int, tokens: int) -> int:
    """Returns how many tokens the requests, shared by the clients, have decoded."""
    decoded, lock = [0], threading.Lock()

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECS)
        while True:
            with lock:
                if not requests:
                    return
                number = requests.pop()
            prompt = (_TEXT * 4)[: 8 + 37 * number % 120]
            status, answer = _post(connection, {"prompt": prompt, "max_tokens": tokens})
            if status != 200:
                raise SystemExit(answer)
            with lock:
                decoded[0] += answer["usage"]["completion_tokens"]

    _in_threads(work, clients)
    return decoded[0]


def _in_threads(work: Callable[[], None], number: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post(connection: http.client.HTTPConnection, body: object) -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", "/v1/completions", content)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    main()
