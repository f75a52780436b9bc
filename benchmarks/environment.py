"""What the processes of a benchmark tell each other, and how the clusters are tuned."""

from __future__ import annotations

from typing import Any

DATABASE_VARIABLE = "BATON_BENCH_DATABASE"
"""The database as a URL: ``postgresql://…`` or ``sqlite:///path``."""
Q_CLUSTER_VARIABLE = "BATON_BENCH_Q_CLUSTER"
"""``Q_CLUSTER`` as JSON."""
LAYER_VARIABLE = "BATON_BENCH_LAYER"
"""The address of the Redis or Valkey that is the channel layer; empty where there is none."""
RAW_VARIABLE = "BATON_BENCH_RAW"
"""Not empty where Baton is not installed."""

TUNED: dict[str, Any] = {
    "name": "bench",
    "orm": "default",
    "workers": 2,
    "poll": 0.02,
    "bulk": 20,
    "queue_limit": 40,
    "timeout": 60,
    "retry": 3600,
    "max_attempts": 1,
    "ack_failures": True,
    "save_limit": -1,
    "recycle": 1_000_000,
    "catch_up": False,
    "log_level": "WARNING",
}
"""As fast as django-q2 goes with its ORM broker; no worker is recycled in the middle of a measurement."""


def with_prefetch(prefetch: int) -> dict[str, Any]:
    """The settings of Baton's cluster: tuned like the others, with the small prefetch that Baton recommends."""
    return TUNED | {"queue_limit": prefetch, "bulk": prefetch}
