"""System checks: what in a project would lose, repeat or delay work. Importing this registers them."""

from __future__ import annotations

from baton.checks import brokers, capture, channels, clusters, databases, pricing, project, steps

__all__ = ["brokers", "capture", "channels", "clusters", "databases", "pricing", "project", "steps"]
