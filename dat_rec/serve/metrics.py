"""What the server counts, as Prometheus reads it; and what it says on stderr."""

import os
import sys
from multiprocessing import current_process

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FIGURES = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable, of prometheus_client, of the folder in which workers add up theirs."""

SECONDS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """A server's figures; of several workers the sums."""

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
            "dat_rec_waiting_requests",
            "Requests that wait for their answer.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.reloads = Counter(
            "dat_rec_reloads", "New exports, done or refused.", ["result"], registry=registry
        )
        for result in ("done", "refused"):
            self.reloads.labels(result)
        self._export = Gauge(
            "dat_rec_export_info",
            "How many workers serve the export.",
            ["export"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._served: str | None = None

    def export(self, name: str) -> None:
        """Tell which export is served."""
        if FIGURES not in os.environ:
            self._export.clear()
        elif self._served is not None:
            # What a worker has written stays in its file.
            self._export.labels(self._served).set(0)
        self._export.labels(name).set(1)
        self._served = name

    def text(self) -> bytes:
        """In Prometheus's text format."""
        if FIGURES not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def say(what: str) -> None:
    """A line on stderr."""
    process = current_process()
    who = "" if process.name == "MainProcess" else f" {process.name}:"
    print(f"dat-rec serve:{who} {what}", file=sys.stderr, flush=True)
