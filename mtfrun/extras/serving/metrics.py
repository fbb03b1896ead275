"""What Prometheus reads at /metrics."""

from __future__ import annotations

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from mtfrun.extras.serving.served_model import ServedModel

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
# Seconds, from one step of a small model to the longest answer.
_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The counters of one server."""

    def __init__(self, model: ServedModel):
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mtfrun_requests", "Requests by path and status", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "mtfrun_request_seconds",
            "Seconds of requests that were answered",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.prompt_tokens = Counter("mtfrun_prompt_tokens", "Tokens of prompts", registry=registry)
        self.output_tokens = Counter("mtfrun_output_tokens", "Tokens of outputs", registry=registry)
        self.running = Gauge("mtfrun_requests_running", "Requests in progress", registry=registry)
        engine = model.engine
        if engine is not None:
            for name, help_text, value in (
                ("active", "Rows in the shared batch", lambda: engine.active),
                ("waiting", "Rows that wait for a place", lambda: engine.waiting),
            ):
                gauge = Gauge(f"mtfrun_rows_{name}", help_text, registry=registry)
                gauge.set_function(value)

    def text(self) -> bytes:
        return prometheus_client.generate_latest(self._registry)
