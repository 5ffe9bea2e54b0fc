"""What Prometheus reads."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time for every counter, which nobody reads

Stage = Literal["body", "queue", "decode", "run", "encode"]

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one server; safe for threads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter(
            "simmap_requests", "Requests by route, method and status.", ("route", "method", "status"),
            registry=registry,
        )  # fmt: skip
        self.seconds = Histogram(
            "simmap_request_seconds", "From the head of a request to the end of its answer.", ("route",),
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "simmap_stage_seconds",
            "Stages of a request: body (reading it), queue (waiting for a thread), decode, run, encode.",
            ("stage",), buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.images = Counter("simmap_images", "Images that were decoded.", registry=registry)
        self.errors = Counter("simmap_errors", "Refused requests by kind.", ("kind",), registry=registry)
        self.taken = Gauge(
            "simmap_slots_taken", "Requests under way, those that wait included.", registry=registry
        )
        self.slots = Gauge("simmap_slots", "Requests that may be under way; more get 503.", registry=registry)
        self.running = Gauge("simmap_running", "Requests that a thread works on.", registry=registry)
        self.ready = Gauge("simmap_ready", "1 while the server is ready.", registry=registry)
        self.model = Gauge(
            "simmap_model_info", "The model, always 1.", ("name", "fingerprint", "device"), registry=registry
        )
        self.index_images = Gauge("simmap_index_images", "Images in the index.", registry=registry)
        self.reloads = Counter("simmap_reloads", "Reloads by outcome.", ("outcome",), registry=registry)

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time a stage of a request."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - started)

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)
