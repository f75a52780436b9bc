"""What totals over a million calls take on PostgreSQL: ``make bench-stats``.

It starts a durable PostgreSQL, fills it with the calls of ten days, and prints a table: the totals of a run of average
size and of the largest, the cost by model of a day, and the cost by model of all time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from benchmarks.environment import DATABASE_VARIABLE, Q_CLUSTER_VARIABLE, with_prefetch
from benchmarks.report import aligned, number
from scripts.services import Postgres

TOTALS_MS, DAY_MS = 300.0, 1000.0
DAYS, STEPS, AVERAGE = 10, 50, 1000
BEGINNING = datetime(2026, 6, 1, tzinfo=UTC)

RUNS = """
    INSERT INTO baton_workflowrun (id, name, state, round, meta, debug, ignore_cancelled, ignore_discarded, inserted_at,
        cancel_reason)
    SELECT md5('run' || r)::uuid, 'workflow ' || r %% 20, 'completed', 1, '{{}}', false, false, false, now(), ''
    FROM generate_series(0, {runs}) r;

    INSERT INTO baton_workflownode (run_id, name, step, state, attempt, max_attempts, queue, priority, remaining,
        n_deps, n_out, ignore_cancelled, ignore_discarded, args, refs, options, settled_at, changed_at, fan_group,
        fence)
    SELECT md5('run' || n / {steps})::uuid, 'step ' || n %% {steps}, 'app.steps.ask_' || n %% {steps}, 'completed', 1,
        5, 'llm', 0, 0, 0, 0, false, false, '{{}}', '[]', '{{}}', now(), now(), '', 1
    FROM generate_series(0, {runs} * {steps} + {steps} - 1) n;
"""

CALLS = """
    INSERT INTO baton_stepstat (run_id, node_id, once_key, key, workflow_name, step_name, step, attempt, from_ledger,
        count, provider, model, input_tokens, output_tokens, cached_input_tokens, cache_write_tokens, reasoning_tokens,
        cost, currency, unit_prices, price_source, price_version, unpriced_because, duration, at)
    SELECT n.run_id, n.id, 'c:' || c, 'answer', 'workflow ' || r.number %% 20, n.name, n.step, 1, c %% 50 = 0, 1,
        'openai', 'model-' || c %% 12 || '-2026-06-01', 1000 + c %% 977, c %% 331, c %% 101, 0, c %% 53,
        CASE WHEN c %% 100 <> 7 THEN 1000000000 + c * 7919 END, CASE WHEN c %% 100 <> 7 THEN 'USD' ELSE '' END,
        '{{"input": "1.25", "output": "10", "cached_input": "0.125"}}', 'PRICES', '',
        CASE WHEN c %% 100 = 7 THEN 'no price for this model' ELSE '' END, 1.5,
        %s + c * interval '1 second' * 86400 * {days} / {calls}
    FROM generate_series(0::bigint, {calls} - 1) c,
        LATERAL (SELECT CASE WHEN c * 10 / {calls} = {days} / 2 THEN {runs} ELSE (c * 7919) %% {runs} END) r(number),
        LATERAL (SELECT id, run_id, name, step FROM baton_workflownode
            WHERE id = (SELECT min(id) FROM baton_workflownode) + r.number * {steps} + c %% {steps}) n;

    INSERT INTO baton_ledgerentry (run_id, node_id, key, number, is_call, policy, state, resolution, resolved_by,
        is_retired, fence, attempt, provider, model, answer, answer_type, error, accounts, is_estimate, started_at,
        ended_at)
    SELECT run_id, node_id, key || id, 1, true, '', CASE WHEN id %% 5000 = 0 THEN 'ambiguous' ELSE 'answered' END, '',
        '', false, 1, 1, provider, model, '{{"choices": [{{"message": {{"content": "an answer of some length"}}}}]}}',
        '', '', '', false, at, at
    FROM baton_stepstat;
"""


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
        figures = _measure(options)
    lines = _judge(figures)
    print(aligned([["", "measured", "must", ""], *lines], right={1}))
    print(json.dumps(figures))
    return 1 if options.strict and any(line[-1] == "MISS" for line in lines) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stats", description=__doc__)
    parser.add_argument("--calls", type=int, default=1_000_000, help="calls in the table (default 1,000,000)")
    parser.add_argument("--repeat", type=int, default=7, help="repetitions (default 7)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure misses what it must reach")
    return parser.parse_args()


def _measure(options: argparse.Namespace) -> dict[str, float]:
    from django.core.management import call_command  # noqa: PLC0415 - needs a configured Django
    from django.db import connection  # noqa: PLC0415

    from baton.llm import stats  # noqa: PLC0415
    from baton.models import StepStat  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    runs = max(1, options.calls // AVERAGE)
    _say(f"{options.calls:,} calls of {runs:,} runs in {DAYS} days, all of the sixth of them of one run")
    sizes = {"runs": runs, "steps": STEPS, "calls": options.calls, "days": DAYS}
    with connection.cursor() as cursor:
        cursor.execute(RUNS.format(**sizes), [])
        cursor.execute(CALLS.format(**sizes), [BEGINNING])
        cursor.execute("VACUUM ANALYZE")
        cursor.execute("SELECT md5('run7')::uuid, md5(%s)::uuid", [f"run{runs}"])
        average, largest = cursor.fetchone()
    day = (BEGINNING + timedelta(days=4), BEGINNING + timedelta(days=5))
    figures = {
        "calls": float(StepStat.objects.count()),
        "calls_of_the_average_run": float(StepStat.objects.filter(run_id=average).count()),
        "calls_of_the_largest_run": float(StepStat.objects.filter(run_id=largest).count()),
        "calls_of_the_day": float(StepStat.objects.filter(at__gte=day[0], at__lt=day[1]).count()),
    }
    questions: dict[str, Callable[[], Any]] = {
        "totals_ms": lambda: stats.workflow_totals(average),
        "totals_of_largest_ms": lambda: stats.workflow_totals(largest),
        "day_by_model_ms": lambda: stats.cost_by_model(*day),
        "day_by_step_ms": lambda: stats.cost_by_step(*day),
        "day_by_workflow_ms": lambda: stats.cost_by_workflow(*day),
        "all_by_model_ms": stats.cost_by_model,
    }
    for name, ask in questions.items():
        figures |= _timed(name, ask, repeat=options.repeat)
        _say(f"{name} {figures[name]:.0f}, the first time {figures[f'{name}_first']:.0f}")
    return figures


def _timed(name: str, ask: Callable[[], Any], *, repeat: int) -> dict[str, float]:
    """How long a question takes, and how long it takes the first time, when the rows are not in memory yet."""
    spent = []
    for _ in range(repeat + 1):
        started = time.perf_counter()
        ask()
        spent.append((time.perf_counter() - started) * 1000)
    return {name: statistics.median(spent[1:]), f"{name}_first": spent[0]}


def _judge(figures: dict[str, float]) -> list[list[str]]:
    """The lines of the table."""
    lines = []
    for label, name, most in (
        ("totals of a run of {calls_of_the_average_run:,.0f} calls", "totals_ms", TOTALS_MS),
        ("totals of a run of {calls_of_the_largest_run:,.0f} calls", "totals_of_largest_ms", TOTALS_MS),
        ("a day of {calls_of_the_day:,.0f} calls by model", "day_by_model_ms", DAY_MS),
        ("the same by step", "day_by_step_ms", DAY_MS),
        ("the same by workflow", "day_by_workflow_ms", DAY_MS),
        ("all {calls:,.0f} calls by model", "all_by_model_ms", None),
    ):
        must = "" if most is None else f"≤ {most:g}"
        reached = "" if most is None else "OK" if figures[name] <= most else "MISS"
        lines.append([f"{label.format(**figures)}, ms", number(figures[name]), must, reached])
    return lines


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
