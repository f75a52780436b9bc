"""OpenTelemetry, where it is installed: a span for each insert and execution, and metrics."""

from __future__ import annotations
