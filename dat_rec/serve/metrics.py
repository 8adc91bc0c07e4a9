"""What the server counts, as Prometheus reads it; and what it says on stderr."""

import sys

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """A server's figures."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "dat_rec_requests",
            "Answers, by path and status.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "dat_rec_request_seconds",
            "Time from a request's head to its answer's end.",
            ["path"],
            buckets=SECONDS,
            registry=registry,
        )
        self.together = Histogram(
            "dat_rec_batch_requests",
            "Requests that were answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.waiting = Gauge(
            "dat_rec_waiting_requests", "Requests that wait to be computed.", registry=registry
        )
        self.reloads = Counter(
            "dat_rec_reloads", "New exports, done or refused.", ["result"], registry=registry
        )
        for result in ("done", "refused"):
            self.reloads.labels(result)
        self._export = Gauge(
            "dat_rec_export_info", "1 for the export that is served.", ["export"], registry=registry
        )

    def export(self, name: str) -> None:
        """Tell which export is served."""
        self._export.clear()
        self._export.labels(name).set(1)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)


def say(what: str) -> None:
    """A line on stderr."""
    print(f"dat-rec serve: {what}", file=sys.stderr, flush=True)
