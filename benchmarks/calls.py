"""What the ledger adds to a call of a language model, on PostgreSQL: ``make bench-calls``.

It starts a durable PostgreSQL and calls a function that answers at once, from bodies in this process: so all that is
measured is Baton's. Beside each figure stands what one committed INSERT takes on the same disk.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from decimal import Decimal
from typing import Any

from benchmarks.environment import DATABASE_VARIABLE, Q_CLUSTER_VARIABLE, with_prefetch
from benchmarks.report import aligned, number
from scripts.services import Postgres

MOST_MS = 3.0


def main() -> int:
    """Measure and print; exit with 1 when a figure misses what it must reach and ``--strict`` was given."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with Postgres(durable=True) as server:
        os.environ |= {
            DATABASE_VARIABLE: server.url,
            Q_CLUSTER_VARIABLE: json.dumps(with_prefetch(2)),
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        }
        import django  # noqa: PLC0415 - its settings name the database that has just been started

        django.setup()
        figures = _measure(options.calls)
    lines = _judge(figures)
    print(aligned([["", "p50 ms", "p95 ms", "must (p50)", ""], *lines], right={1, 2}))
    print(json.dumps(figures))
    return 1 if options.strict and any(line[-1] == "MISS" for line in lines) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="calls of each kind (default 1,000)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure misses what it must reach")
    return parser.parse_args()


def _measure(calls: int) -> dict[str, list[float]]:
    from django.core.management import call_command  # noqa: PLC0415 - needs a configured Django

    from baton import Workflow  # noqa: PLC0415
    from baton.testing import drain  # noqa: PLC0415
    from benchmarks import paid_steps  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    figures = {"insert": _inserts(calls)}
    for name, step in paid_steps.KINDS.items():
        budget = Decimal(1000) if name == "budget" else None
        run = drain(Workflow(name, budget=budget).add("calls", step.bind(calls=calls)).insert())
        figures[name] = run.steps["calls"].result
    return {name: [_at(spent, 0.5), _at(spent, 0.95)] for name, spent in figures.items()}


def _inserts(count: int) -> list[float]:
    """What a committed INSERT takes."""
    from baton.models import BudgetAccount  # noqa: PLC0415

    spent = []
    for index in range(count):
        started = time.perf_counter()
        BudgetAccount.objects.create(name=f"bench:{index}")
        spent.append((time.perf_counter() - started) * 1000)
    return spent


def _at(spent: list[float], quantile: float) -> float:
    return statistics.quantiles(spent, n=100)[int(quantile * 100) - 1]


def _judge(figures: dict[str, list[float]]) -> list[list[Any]]:
    """The lines of the table."""
    lines = []
    for name, label, most in (
        ("insert", "one committed INSERT of Django's, for comparison", None),
        ("call", "call", MOST_MS),
        ("budget", "call in a run with a budget", MOST_MS),
        ("capture", "call with capture on", None),
        ("replay", "call answered from the ledger", MOST_MS),
        ("stream", "stream of 20 chunks", MOST_MS),
        ("acall", "acall", MOST_MS),
        ("once", "ctx.once", MOST_MS),
    ):
        p50, p95 = figures[name]
        must = "" if most is None else f"≤ {most:g}"
        reached = "" if most is None else "OK" if p50 <= most else "MISS"
        lines.append([label, number(p50), number(p95), must, reached])
    return lines


if __name__ == "__main__":
    sys.exit(main())
