"""What the service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from facetrm.serve.batching import BatchRead

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@final
class Counters:
    """Counts requests, batches and tokens of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        named: Any = {"namespace": "facetrm", "registry": self._registry}
        self._requests = Counter("requests", "Requests, by route and status.", ["route", "status"], **named)
        self._seconds = Histogram("request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, **named)
        self._rejected = Counter("rejected", "Requests that were refused, by reason.", ["reason"], **named)
        self._batch = Histogram("batch_conversations", "Conversations of a batch.", buckets=_ROWS, **named)
        self._reading = Histogram("batch_seconds", "Time to read a batch.", buckets=_SECONDS, **named)
        self._tokens = Counter("tokens", "Tokens that were read.", **named)
        self._waiting = Gauge("queue_conversations", "Conversations whose batch has not begun.", **named)
        self._ready = Gauge("ready", "1 if the model is loaded and requests are accepted.", **named)

    def watch(self, waiting: Callable[[], float]) -> None:
        """Read the length of the queue from a function whenever it is asked for.

        Args:
            waiting: returns the number of conversations in the queue.
        """
        self._waiting.set_function(waiting)

    def ready(self, value: bool) -> None:
        """Note whether requests are accepted.

        Args:
            value: whether they are.
        """
        self._ready.set(float(value))

    def batch(self, batch: BatchRead) -> None:
        """Count a batch.

        Args:
            batch: the batch that was read.
        """
        self._batch.observe(batch.rows)
        self._reading.observe(batch.seconds)
        self._tokens.inc(batch.tokens)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: path of the route, as it is declared.
            status: HTTP status of the answer.
            seconds: time that it took.
        """
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a refused request.

        Args:
            reason: code of the error.
        """
        self._rejected.labels(reason).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus's text format."""
        return generate_latest(self._registry)
