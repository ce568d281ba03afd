"""What Prometheus reads, under vLLM's names with our prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from openarctic.engine import Engine

PREFIX = "openarctic"
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_BETWEEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_WHOLE = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)


class Metrics:
    """Counts of one server. A registry of its own, so that several servers can live in a process."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model
        self._add_gauges(engine)
        self._prompt = self._counter("prompt_tokens", "Tokens of prompts")
        self._generated = self._counter("generation_tokens", "Tokens that were written")
        self._cached = self._counter("prefix_cache_hits", "Tokens of prompts that were not computed again")
        self._ended = Counter(
            "request_success",
            "Requests that ended, by reason",
            ["model_name", "finished_reason"],
            namespace=PREFIX,
            registry=self._registry,
        )
        self._first = self._histogram("time_to_first_token_seconds", "From the request to its first token", _FIRST)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens of a text", _BETWEEN)
        self._whole = self._histogram("e2e_request_latency_seconds", "From the request to its end", _WHOLE)
        self._http = Counter(
            "http_requests", "Answers by route and status", ["route", "status"], namespace=PREFIX, registry=self._registry
        )

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ["model_name"], namespace=PREFIX, registry=self._registry).labels(self._model)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(name, text, ["model_name"], namespace=PREFIX, registry=self._registry, buckets=buckets)
        return made.labels(self._model)

    def _add_gauges(self, engine: Engine) -> None:
        gauges = {
            "num_requests_running": ("Texts that are being written", lambda: engine.num_running),
            "num_requests_waiting": ("Texts that wait for their turn", lambda: engine.num_waiting),
            "kv_cache_usage_perc": ("Share of the pages of keys and values in use, 0 to 1", lambda: engine.cache_usage),
        }
        for name, (text, read) in gauges.items():
            gauge = Gauge(name, text, ["model_name"], namespace=PREFIX, registry=self._registry)
            gauge.labels(self._model).set_function(read)

    def first_token(self, seconds: float) -> None:
        """A request has its first token."""
        self._first.observe(seconds)

    def between_tokens(self, seconds: float) -> None:
        """A text has one more token."""
        self._between.observe(seconds)

    def ended(self, reasons: list[str], prompt: int, generated: int, cached: int, seconds: float) -> None:
        """A request has ended; `reasons` has one for each of its texts."""
        self._prompt.inc(prompt)
        self._generated.inc(generated)
        self._cached.inc(cached)
        self._whole.observe(seconds)
        for reason in reasons:
            self._ended.labels(self._model, reason).inc()

    def answered(self, route: str, status: int) -> None:
        """An answer was begun. `route` is a route's pattern, never a path that somebody made up."""
        self._http.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
