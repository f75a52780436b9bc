"""The example's own app."""

from __future__ import annotations

from django.apps import AppConfig


class ResearchConfig(AppConfig):
    """Two workflows; no tables of its own."""

    name = "research"
