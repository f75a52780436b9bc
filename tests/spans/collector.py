"""A tracer and a meter of this process for the time of a test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.metrics import _internal as metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler


class Collector:
    """What was exported."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader])
        self.processor: SpanProcessor = SimpleSpanProcessor(self._exporter)

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The spans, in the order in which they began."""
        return in_order(as_dict(span) for span in self._exporter.get_finished_spans())

    def named(self, name: str) -> list[dict[str, Any]]:
        """The spans of that name."""
        return [span for span in self.spans if span["name"] == name]

    @contextmanager
    def traces(self, *, sampler: Sampler | None = None, processor: SpanProcessor | None = None) -> Iterator[None]:
        """Be the provider of this process."""
        provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        provider.add_span_processor(processor or self.processor)
        before = trace._TRACER_PROVIDER, metrics._METER_PROVIDER
        # There is no public way to set one for a while.
        trace._TRACER_PROVIDER, metrics._METER_PROVIDER = provider, self.meter_provider
        try:
            yield
        finally:
            trace._TRACER_PROVIDER, metrics._METER_PROVIDER = before

    def measured(self, name: str) -> list[dict[str, Any]]:
        """The points of a metric: their attributes, with `value` or `count` and `sum`."""
        data = self._reader.get_metrics_data()
        if data is None:
            return []
        return [
            {**(point.attributes or {}), **_numbers(point)}
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def _numbers(point: Any) -> dict[str, float]:
    return {key: getattr(point, key) for key in ("value", "count", "sum") if hasattr(point, key)}


def as_dict(span: ReadableSpan) -> dict[str, Any]:
    """A span as JSON takes it."""
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "kind": span.kind.name,
        "trace_id": f"{context.trace_id:032x}",
        "span_id": f"{context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "start": span.start_time,
        "end": span.end_time,
        "attributes": dict(span.attributes or {}),
        "status": span.status.status_code.name,
        "description": span.status.description,
        "events": [
            {"name": event.name, **{key: str(value) for key, value in (event.attributes or {}).items()}}
            for event in span.events
        ],
    }


def in_order(spans: Any) -> list[dict[str, Any]]:
    """Spans by the time at which they began."""
    return sorted(spans, key=lambda span: span["start"])


def roots(spans: list[dict[str, Any]]) -> list[str]:
    """The names of the spans whose parent is not among them."""
    ids = {span["span_id"] for span in spans}
    return [span["name"] for span in spans if span["parent_id"] not in ids]


def parent_of(span: dict[str, Any], spans: list[dict[str, Any]]) -> str | None:
    """The name of a span's parent."""
    names: dict[str, str] = {other["span_id"]: other["name"] for other in spans}
    return names.get(span["parent_id"])
