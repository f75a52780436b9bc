"""Sets OpenTelemetry up in every worker, after it was forked, as the guide says; spans are written to files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from django.apps import AppConfig

FOR_EVER = 3_600_000
"""Milliseconds after which a batch is sent by itself."""
ENVIRONMENT = "BATON_TEST_SPANS_FOLDER"


class SpansConfig(AppConfig):
    """The app `tests.spans`."""

    name = "tests.spans"
    label = "tests_spans"

    def ready(self) -> None:
        if os.environ.get(ENVIRONMENT):
            from django_q.signals import post_spawn

            post_spawn.connect(set_up)


def set_up(**_kwargs: Any) -> None:
    """Make this process write its spans to a file of its own, as it ends if not before."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    from tests.spans.collector import as_dict

    path = Path(os.environ[ENVIRONMENT]) / f"{os.getpid()}"

    class FileExporter(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with path.open("ab", buffering=0) as file:
                file.write(b"".join(json.dumps(as_dict(span)).encode() + b"\n" for span in spans))
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(FileExporter(), schedule_delay_millis=FOR_EVER))
    trace.set_tracer_provider(provider)
    Finalize(None, provider.shutdown, exitpriority=10)


def written(folder: Path) -> list[dict[str, Any]]:
    """What all processes wrote."""
    return [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
