"""What the sweep costs beside a million old steps, and what it costs the workers to delete them: ``make bench-sweep``.

It starts a durable PostgreSQL, fills it, and prints a table: what a pass takes where nothing is to be mended, how fast
old runs go, how long a transaction of that holds its locks, and how fast W2 is meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks.environment import DATABASE_VARIABLE, Q_CLUSTER_VARIABLE, with_prefetch
from benchmarks.report import AT_LEAST, aligned, number
from scripts import watchdog
from scripts.services import Postgres

if TYPE_CHECKING:
    import psycopg

    from benchmarks.cluster import Cluster

ROOT = Path(__file__).resolve().parent.parent
STEPS = 30
PASS_MS, LOCK_MS, SLOWDOWN = 50.0, 200.0, 0.75

OLD = """
    INSERT INTO baton_workflowrun (id, name, state, round, meta, debug, ignore_cancelled, ignore_discarded, inserted_at,
        finished_at, cancel_reason)
    SELECT md5('old' || r)::uuid, 'old', 'completed', 1, '{{}}', false, false, false,
        now() - interval '61 days' + r * interval '1 second', now() - interval '60 days' + r * interval '1 second', ''
    FROM generate_series(1, {runs}) r;

    INSERT INTO baton_workflownode (run_id, name, step, state, attempt, max_attempts, queue, priority, remaining,
        n_deps, n_out, ignore_cancelled, ignore_discarded, args, refs, options, has_result, result_json, settled_at,
        changed_at, started_at, queued_at, fan_group, attempt_log, worker, version, fence)
    SELECT md5('old' || (1 + n / {steps}))::uuid, 'step ' || n % {steps}, 'benchmarks.steps.hop', 'completed', 1, 5,
        'default', 0, 0, CASE WHEN n % {steps} = 0 THEN 0 ELSE 1 END, 1, false, false, '{{"number": 12345}}', '[]',
        '{{}}', true, '{{"words": 12345, "title": "something that a step may well have returned"}}', t.at, t.at, t.at,
        t.at, '', '[{{"number": 1, "worker": "host:12345", "queued_at": "2026-06-14T18:00:00.123456Z", "started_at":
        "2026-06-14T18:00:00.123456Z", "ended_at": "2026-06-14T18:00:00.123456Z", "outcome": "completed", "error":
        null, "count": 1}}]', 'host:12345', 3, 1
    FROM generate_series(0, {runs} * {steps} - 1) n, LATERAL (
        SELECT now() - interval '60 days' + n / {steps} * interval '1 second') t(at);

    INSERT INTO baton_workflowedge (node_id, dependency_id)
    SELECT id, id - 1 FROM baton_workflownode WHERE name <> 'step 0' AND state = 'completed';

    INSERT INTO baton_completion (run_id, round, outcome, failed_steps, failed_count, total_count, finished_at,
        announced_at)
    SELECT id, 1, 'completed', '[]', 0, {steps}, finished_at, finished_at FROM baton_workflowrun;
"""

LIVE = """
    INSERT INTO baton_workflowrun (id, name, state, round, meta, debug, ignore_cancelled, ignore_discarded, inserted_at,
        cancel_reason)
    SELECT md5('live' || r)::uuid, 'live', 'running', 1, '{{}}', false, false, false, now(), ''
    FROM generate_series(1, {live}) r;

    INSERT INTO baton_workflownode (run_id, name, step, state, attempt, max_attempts, queue, priority, remaining,
        n_deps, n_out, ignore_cancelled, ignore_discarded, args, refs, options, settled_at, changed_at, started_at,
        lease_until, fan_group)
    SELECT md5('live' || (1 + n / {steps}))::uuid, 'step ' || n % {steps}, 'benchmarks.steps.hop',
        CASE WHEN n % {steps} < 10 THEN 'completed' WHEN n % {steps} = 10 THEN 'executing' ELSE 'pending' END,
        CASE WHEN n % {steps} <= 10 THEN 1 ELSE 0 END, 5, 'default', 0, CASE WHEN n % {steps} <= 10 THEN 0 ELSE 1 END,
        CASE WHEN n % {steps} = 0 THEN 0 ELSE 1 END, 1, false, false, '{{}}', '[]', '{{}}',
        CASE WHEN n % {steps} < 10 THEN now() END, now(), CASE WHEN n % {steps} <= 10 THEN now() END,
        CASE WHEN n % {steps} = 10 THEN now() + interval '1 day' END, ''
    FROM generate_series(0, {live} * {steps} - 1) n;

    INSERT INTO baton_workflowedge (node_id, dependency_id)
    SELECT n.id, n.id - 1 FROM baton_workflownode n JOIN baton_workflowrun r ON r.id = n.run_id
    WHERE n.name <> 'step 0' AND r.name = 'live';
"""

FORGET_LIVE = """
    DELETE FROM baton_workflowedge WHERE node_id IN (
        SELECT n.id FROM baton_workflownode n JOIN baton_workflowrun r ON r.id = n.run_id WHERE r.name = 'live');
    DELETE FROM baton_workflownode WHERE run_id IN (SELECT id FROM baton_workflowrun WHERE name = 'live');
    DELETE FROM baton_workflowrun WHERE name = 'live';
"""

ANALYZE = "VACUUM ANALYZE baton_workflowrun, baton_workflownode, baton_workflowedge, baton_completion"

LONGEST = """
    SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
    WHERE application_name = 'retention' AND xact_start IS NOT NULL AND backend_xid IS NOT NULL
"""
"""How long a transaction of the sweeper that has written something has been open."""


def main() -> int:
    """Measure and print; exit with 1 when a figure misses what it must reach and ``--strict`` was given."""
    options = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with Postgres(durable=True) as server, tempfile.TemporaryDirectory(prefix="baton-bench-") as folder:
        os.environ |= {
            DATABASE_VARIABLE: server.url,
            Q_CLUSTER_VARIABLE: json.dumps(with_prefetch(2)),
            "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
        }
        import django  # noqa: PLC0415 - its settings name the database that has just been started

        django.setup()
        figures = _measure(options, Path(folder))
    lines = _judge(figures)
    print(aligned([["", "measured", "must", ""], *lines], right={1}))
    print(json.dumps(figures))
    return 1 if options.strict and any(line[-1] == "MISS" for line in lines) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep", description=__doc__)
    parser.add_argument("--old", type=int, default=1_000_000, help="steps of old runs (default 1,000,000)")
    parser.add_argument("--live", type=int, default=1000, help="live runs (default 1,000)")
    parser.add_argument("--passes", type=int, default=30, help="passes that are measured (default 30)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of W2, each way (default 5)")
    parser.add_argument("--interval", type=float, default=1.0, help="of the resident sweep that deletes (default 1)")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a figure misses what it must reach")
    return parser.parse_args()


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    from django.core.management import call_command  # noqa: PLC0415 - needs a configured Django

    from benchmarks import workflows  # noqa: PLC0415
    from benchmarks.cluster import Cluster  # noqa: PLC0415
    from benchmarks.measure import commit_milliseconds  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    runs = -(-options.old // STEPS)
    _say(f"{runs * STEPS:,} steps of old runs and {options.live:,} live runs")
    _run_sql(OLD.format(runs=runs, steps=STEPS), LIVE.format(live=options.live, steps=STEPS), ANALYZE)
    figures = {"commit_ms": commit_milliseconds(), **_healthy_passes(options.passes)}
    _say(str(figures))
    _run_sql(FORGET_LIVE, ANALYZE)
    q_cluster = json.loads(os.environ[Q_CLUSTER_VARIABLE])
    with Cluster(q_cluster, log=folder / "cluster.log") as cluster:
        workflows.warm_up(cluster)
        figures |= _pruning(cluster, runs, options)
    return figures


def _healthy_passes(passes: int) -> dict[str, float]:
    """What a pass costs where nothing is to be mended: its time, and its statements' time and number."""
    from django.db import connection  # noqa: PLC0415 - needs a configured Django

    from baton.sweep import sweep  # noqa: PLC0415

    seconds, counts, whole = [], [], []
    for _ in range(passes):
        # Watched, the statements are not prepared: this is the dearer way.
        spent: list[float] = []

        def watch(execute: Any, *args: Any, _spent: list[float] = spent) -> Any:
            started = time.perf_counter()
            try:
                return execute(*args)
            finally:
                _spent.append(time.perf_counter() - started)

        with connection.execute_wrapper(watch):
            report = sweep()
        if report.work or report.rung or report.errors:
            message = f"the database was not healthy: {report}"
            raise SystemExit(message)
        seconds.append(sum(spent))
        counts.append(len(spent))
        started = time.perf_counter()
        sweep()
        whole.append(time.perf_counter() - started)
    return {
        "pass_database_ms": statistics.median(seconds) * 1000,
        "pass_database_ms_most": max(seconds) * 1000,
        "pass_ms": statistics.median(whole) * 1000,
        "pass_statements": float(max(counts)),
        "pass_statements_least": float(min(counts)),
    }


def _pruning(cluster: Cluster, runs: int, options: argparse.Namespace) -> dict[str, float]:
    """How fast old runs go, for how long they are locked, and what that costs W2, measured by turns."""
    from baton.models import WorkflowRun  # noqa: PLC0415 - needs a configured Django

    alone, beside = [], []
    old = WorkflowRun.objects.filter(name="old")
    deleting, gone = 0.0, 0
    with Watch() as watch:
        for _ in range(options.rounds):
            alone.append(_w2(cluster))
            before, started = old.count(), time.perf_counter()
            with _sweeper(options.interval):
                _wait_for(lambda before=before: old.count() < before)
                beside.append(_w2(cluster))
            deleting += time.perf_counter() - started
            gone += before - old.count()
            _say(f"W2 {alone[-1]:.0f} alone, {beside[-1]:.0f} beside; {gone * STEPS:,} steps gone")
        while_w2 = gone * STEPS / deleting
        left, started = old.count(), time.perf_counter()
        with _sweeper(options.interval):
            _wait_for(lambda: not old.exists())
        rest = time.perf_counter() - started
    return {
        "w2_alone": statistics.median(alone),
        "w2_beside": statistics.median(beside),
        "w2_ratio": statistics.median(b / a for a, b in zip(alone, beside, strict=True)),
        "steps_deleted_a_second_beside_w2": while_w2,
        "steps_deleted_a_second": left * STEPS / rest,
        "longest_transaction_ms": watch.longest * 1000,
    }


def _w2(cluster: Cluster) -> float:
    from benchmarks import workflows  # noqa: PLC0415 - needs a configured Django
    from benchmarks.workloads import Sizes  # noqa: PLC0415

    return workflows.diamonds(cluster, Sizes(diamonds=600))["w2_rate"]


class Watch:
    """Looks again and again, on a connection of its own, how long the sweeper's transaction has been open."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        import psycopg  # noqa: PLC0415 - of the extra postgres

        with psycopg.connect(os.environ[DATABASE_VARIABLE], autocommit=True) as connection:
            while not self._over.wait(0.005):
                self.longest = max(self.longest, _longest(connection))


def _longest(connection: psycopg.Connection[Any]) -> float:
    found = connection.execute(LONGEST).fetchone()
    return float(found[0] or 0.0) if found else 0.0


@contextlib.contextmanager
def _sweeper(interval: float) -> Iterator[None]:
    """A resident sweep that deletes, in a process of its own."""
    command = [sys.executable, "-m", "django", "baton_sweep", "--watch", "--prune", "--interval", str(interval)]
    environment = {**os.environ, "PGAPPNAME": "retention"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        watchdog.watch(process, stop_with=signal.SIGTERM)
        try:
            yield
        finally:
            process.terminate()
            process.wait()
            watchdog.forget(process)


def _wait_for(condition: Any) -> None:
    while not condition():
        time.sleep(0.05)


def _run_sql(*statements: str) -> None:
    from django.db import connection  # noqa: PLC0415 - needs a configured Django

    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _judge(figures: dict[str, float]) -> list[list[str]]:
    """The lines of the table."""
    is_constant = figures["pass_statements"] - figures["pass_statements_least"] <= 1
    judged = [
        ("a pass that finds nothing, its statements, ms", figures["pass_database_ms"], f"≤ {PASS_MS:g}"),
        ("the longest transaction of retention, ms", figures["longest_transaction_ms"], f"≤ {LOCK_MS:g}"),
    ]
    lines = [
        [label, number(value), must, "OK" if value <= float(must.split()[1]) else "MISS"]
        for label, value, must in judged
    ]
    ratio = figures["w2_ratio"]
    reached = "OK" if ratio >= SLOWDOWN else "MISS"
    lines.append(["W2 beside retention, of what it is alone", number(ratio), f"{AT_LEAST} {SLOWDOWN:g}", reached])
    lines.append(
        ["statements of a pass", number(figures["pass_statements"]), "constant", "OK" if is_constant else "MISS"]
    )
    for label, name in (
        ("a pass that finds nothing, ms", "pass_ms"),
        ("steps deleted a second", "steps_deleted_a_second"),
        ("the same beside W2", "steps_deleted_a_second_beside_w2"),
        ("W2 alone, steps/s", "w2_alone"),
        ("W2 beside retention, steps/s", "w2_beside"),
        ("one durable commit, ms", "commit_ms"),
    ):
        lines.append([label, number(figures[name]), "", ""])
    return lines


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
